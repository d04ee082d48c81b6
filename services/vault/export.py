"""An export: one tar that becomes a BagIt 1.0 bag, checked with stock tools or with the verifier inside it.

1. The export's own act stands in the log already (the api appended it); no log, no export.
2. One checkpoint is taken, cosigned by as many witnesses as the policy needs if they answer within a bounded
   time, and every proof in the bundle is made for it.
3. The media flows from the store as it lies there, sealed segment after sealed segment, one file a
   recording; each byte is hashed on its way, and a segment that is not what its receipt says ends the stream.
   What came after the closing is a file of its own for each supplement, `<id>.<number>`.
4. Manifests, receipts, offsets, proofs, keys, the verifier and a README follow; the bag's own lists are last.
   Every key of the vault that signed something in it is there, and the log's statements of all of them. A receipt
   key that is rotated meanwhile ends the stream: the list must be signed by a key that the checkpoint tells of.

Memory is one chunk of media and one recording's lists, however large the export is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault import errors, succession
from services.vault.contract import verify, wire
from services.vault.keyring import KeyChanged, Keyring
from services.vault.keys import pem
from services.vault.log.checkpoints import Checkpoints
from services.vault.log.note import vkey
from services.vault.log.sequencer import Sequencer
from services.vault.log.witnesses import Policy
from services.vault.models import Enrolment, LogEntry, Manifest, Recording, Segment
from services.vault.stores.port import Store
from services.vault.timestamps import Timestamper

_README = Path(__file__).with_name("export_readme.md")
_BAGIT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
_ZEROS = bytes(2 * tarfile.BLOCKSIZE)


class _Bag:
    """Writes tar members and remembers what each hashed to."""

    def __init__(self, name: str, moment: datetime):
        self._name, self._mtime = name, int(moment.timestamp())
        self.payload: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.payload_bytes = 0
        self.signers: set[str] = set()
        """Ids of the vault's keys that signed something in it."""

    def head(self, path: str, size: int) -> bytes:
        info = tarfile.TarInfo(f"{self._name}/{path}")
        info.size, info.mtime, info.mode = size, self._mtime, 0o644
        return info.tobuf(tarfile.PAX_FORMAT)

    def tag(self, path: str, data: bytes) -> bytes:
        self.tags[path] = hashlib.sha256(data).hexdigest()
        return self.head(path, len(data)) + data + _padding(len(data))

    def end(self, sign: Callable[[bytes], bytes]) -> bytes:
        """The two files that no list names: the list of the others, and the vault's signature over it."""
        listing = _list(self.tags)
        files = ((verify.TAG_LISTING, listing), (verify.TAG_SIGNATURE, sign(listing)))
        return b"".join(self.head(path, len(data)) + data + _padding(len(data)) for path, data in files) + _ZEROS


class Exporter:
    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        keys: Keyring,
        sequencer: Sequencer,
        checkpoints: Checkpoints,
        timestamper: Timestamper,
    ):
        self._engine, self._store, self._keys, self._sequencer = engine, store, keys, sequencer
        self._checkpoints, self._timestamper = checkpoints, timestamper

    async def begin(self, request: wire.ExportRequest) -> AsyncIterator[bytes]:
        """Check that everything asked for is there, then hand out the stream. Raises NoSuchStatement,
        NoSuchRecording or ActDiffers before the first byte."""
        # 1. The act in the log.
        async with self._engine.connect() as db:
            logged = await db.scalar(select(col(LogEntry.statement)).where(col(LogEntry.act) == request.act))
            these = col(Recording.id).in_(request.recordings)
            disposed = select(col(Recording.id)).where(these, col(Recording.state).in_(("disposing", "disposed")))
            gone = [str(each) for each in await db.scalars(disposed)]
            closed = set(
                await db.scalars(
                    select(col(Manifest.recording_id)).where(col(Manifest.recording_id).in_(request.recordings))
                )
            )
        if logged is None:
            raise errors.NoSuchStatement
        told = json.loads(logged)
        asked = {"recordings": [str(r) for r in request.recordings], "person": str(request.person)}
        if told.get("kind") != "export" or {name: told.get(name) for name in asked} != asked:
            raise errors.ActDiffers
        if closed != set(request.recordings):
            raise errors.NoSuchRecording
        if gone:
            raise errors.RecordingDisposed(recordings=gone)
        rows = await self._closed(request.recordings)
        async with self._engine.connect() as db:
            keys = await succession.listed(db)
        await self._sequencer.settled_all([row.act for row in rows] + _acts_of(keys))
        return self._stream(request, rows, keys, datetime.fromisoformat(told["at"]))

    async def _closed(self, recordings: list[UUID]) -> list[Any]:
        query: Select[*tuple[Any, ...]] = select(
            col(Manifest.recording_id),
            col(Manifest.number),
            col(Manifest.media_bytes),
            col(Manifest.act),
            col(Recording.key_id),
            col(Enrolment.public_key),
            col(Enrolment.act).label("enrolment_act"),
            col(Enrolment.revoked_act),
        )
        query = query.join(Recording, col(Recording.id) == col(Manifest.recording_id))
        query = query.outerjoin(Enrolment, col(Enrolment.key_id) == col(Recording.key_id))
        async with self._engine.connect() as db:
            rows = await db.execute(query.where(col(Manifest.recording_id).in_(recordings)))
            return sorted(rows, key=lambda row: (row.recording_id, row.number))

    async def _stream(
        self, request: wire.ExportRequest, closed: list[Any], keys: Sequence[Any], moment: datetime
    ) -> AsyncIterator[bytes]:
        bag = _Bag(f"quancheng-{request.act}", moment)
        acts = {request.act, *_acts_of(keys)} | {row.act for row in closed}
        acts |= {act for row in closed for act in (row.enrolment_act, row.revoked_act) if act}
        # 2. One checkpoint for all proofs. A recording's other statements were entered before its manifest's.
        positions = {act: await self._sequencer.position(act) for act in acts}
        size, checkpoint = await self._checkpoints.covering(max(positions.values()) + 1)
        stamps = await self._timestamper.covering([positions[row.act] for row in closed], size)
        yield bag.tag("bagit.txt", _BAGIT)
        for row in closed:
            async for chunk in self._recording(bag, row, acts):
                yield chunk
        for act in sorted(acts):
            proof = await self._sequencer.proof(act, size=size, checkpoint=checkpoint)
            yield bag.tag(f"proofs/{act}.tlog-proof", proof.proof.encode())
        for stamp in stamps:
            proof_lines = [base64.b64encode(one) for one in await self._checkpoints.consistency(stamp.size, size)]
            yield bag.tag(f"timestamps/{stamp.size}.checkpoint", stamp.checkpoint)
            yield bag.tag(f"timestamps/{stamp.size}.tsr", stamp.token)
            yield bag.tag(f"timestamps/{stamp.size}.consistency", b"".join(one + b"\n" for one in proof_lines))
            if f"keys/tsa-{stamp.tsa}.pem" not in bag.tags:
                yield bag.tag(f"keys/tsa-{stamp.tsa}.pem", stamp.certificate)
        for part in self._constant(bag, checkpoint, moment, stamps, keys):
            yield part
        signer = next(row.key_id for row in keys if row.purpose == "receipt" and row.superseded_at is None)
        yield bag.end(await self._signer(signer))

    async def _signer(self, signer: str) -> Callable[[bytes], bytes]:
        """The key that was current when the export began, to sign its list. Raises KeyRotated."""
        await self._keys.renew()
        own = self._keys.keys
        try:
            async with self._engine.begin() as db:
                await self._keys.hold(db, "receipt", [signer])
        except KeyChanged as error:
            raise errors.KeyRotated from error
        if own.receipt_key_id != signer:
            raise errors.KeyRotated
        return own.sign_listing

    async def _recording(self, bag: _Bag, row: Any, acts: set[UUID]) -> AsyncIterator[bytes]:
        this = (col(Manifest.recording_id) == row.recording_id) & (col(Manifest.number) == row.number)
        async with self._engine.connect() as db:
            stored: bytes = (await db.scalars(select(col(Manifest.envelope)).where(this))).one()
        envelope = wire.Envelope.model_validate_json(stored)
        bag.signers |= {signature.keyid for signature in envelope.signatures}
        manifest = envelope.decoded()
        segments = manifest["segments"]
        beside = [{**each, "sequence": each["of_sequence"]} for each in manifest["beside"]]
        # 3. The media.
        name = f"{row.recording_id}.{row.number}" if row.number else str(row.recording_id)
        async for chunk in self._media(bag, f"data/{name}.mp4", segments, row.media_bytes):
            yield chunk
        for each in beside:
            path = f"data/{name}.beside/{each['sequence']:010d}-{each['sha256']}"
            async for chunk in self._media(bag, path, [each], each["size"]):
                yield chunk
        # 4. What makes it verifiable.
        folder = f"recordings/{name}"
        yield bag.tag(f"{folder}/manifest.dsse.json", stored)
        yield bag.tag(f"{folder}/manifest.pae", verify.pae(envelope.payloadType, base64.b64decode(envelope.payload)))
        yield bag.tag(f"{folder}/manifest.sig", base64.b64decode(envelope.signatures[0].sig))
        receipts, told = await self._receipts(bag, row.recording_id, segments + beside)
        acts |= told
        yield bag.tag(f"{folder}/receipts.jsonl", receipts)
        yield bag.tag(f"{folder}/offsets.tsv", _offsets(segments))
        if row.key_id and f"keys/terminal-{row.key_id}.pem" not in bag.tags:
            yield bag.tag(f"keys/terminal-{row.key_id}.pem", pem(row.public_key).encode())

    def _constant(
        self, bag: _Bag, checkpoint: str, moment: datetime, stamps: list[Any], keys: Sequence[Any]
    ) -> list[bytes]:
        note = verify.parse_note(checkpoint)
        # The checkpoint tells of each of these keys, so the newest of the log's has signed it.
        vault, logged = (
            next(row for row in keys if row.purpose == purpose and row.superseded_at is None)
            for purpose in ("receipt", "log")
        )
        log_vkey = vkey(self._keys.origin, logged.public_key)
        log = verify.parse_vkey(log_vkey)
        signature = next(line.signature for line in note.signatures if line.of(log))
        parts = [
            bag.tag("checkpoint", checkpoint.encode()),
            bag.tag("checkpoint.body", note.text.encode()),
            bag.tag("checkpoint.sig", signature),
            bag.tag("keys/vault.pem", pem(vault.public_key).encode()),
            *(
                bag.tag(f"keys/vault-{row.key_id}.pem", pem(row.public_key).encode())
                for row in keys
                if row.key_id in bag.signers - {vault.key_id}
            ),
            bag.tag("keys/log.pem", pem(logged.public_key).encode()),
            bag.tag("keys/log.vkey", log_vkey.encode() + b"\n"),
            bag.tag("verify.py", Path(verify.__file__).read_bytes()),
            bag.tag("README.md", self._readme(checkpoint, stamps, vault.key_id, log_vkey).encode()),
            bag.tag("manifest-sha256.txt", _list(bag.payload)),
        ]
        info = {
            "Source-Organization": self._keys.origin,
            "Bagging-Date": moment.date().isoformat(),
            "Payload-Oxum": f"{bag.payload_bytes}.{len(bag.payload)}",
        }
        parts.append(bag.tag("bag-info.txt", "".join(f"{k}: {v}\n" for k, v in info.items()).encode()))
        return parts

    async def _media(self, bag: _Bag, path: str, segments: list[dict[str, Any]], size: int) -> AsyncIterator[bytes]:
        yield bag.head(path, size)
        whole = hashlib.sha256()
        for segment in segments:
            digest, got = hashlib.sha256(), 0
            async for chunk in self._store.read(segment["key"], segment["version"]):
                digest.update(chunk)
                whole.update(chunk)
                got += len(chunk)
                if got > segment["size"]:
                    break
                yield chunk
            if (got, digest.hexdigest()) != (segment["size"], segment["sha256"]):
                raise errors.StoredDiffers(f"{segment['key']} is not what was sealed")
        yield _padding(size)
        bag.payload[path] = whole.hexdigest()
        bag.payload_bytes += size

    async def _receipts(self, bag: _Bag, recording: UUID, segments: list[dict[str, Any]]) -> tuple[bytes, set[UUID]]:
        columns = (
            col(Segment.sequence),
            col(Segment.sha256),
            col(Segment.receipt),
            col(Segment.statement_act),
            col(Segment.conflict_act),
        )
        query = select(*columns).where(col(Segment.recording_id) == recording, col(Segment.state) == "sealed")
        async with self._engine.connect() as db:
            rows = {(row.sequence, row.sha256): row for row in await db.execute(query)}
        ordered = [rows[segment["sequence"], segment["sha256"]] for segment in segments]
        bag.signers |= {signature["keyid"] for row in ordered for signature in row.receipt["signatures"]}
        lines = b"".join(wire.canonical(row.receipt) + b"\n" for row in ordered)
        acts = {row.statement_act for row in ordered} | {row.conflict_act for row in ordered}
        return lines, acts - {None}

    def _readme(self, checkpoint: str, stamps: list[Any], vault: str, log: str) -> str:
        text = _README.read_text("utf-8")
        told = {
            "@VAULT_KEY@": vault,
            "@LOG_KEY@": log,
            "@TIMESTAMPS@": _timestamps(stamps),
            "@WITNESSES@": _witnesses(self._checkpoints.policy, checkpoint),
        }
        for place, value in told.items():
            text = text.replace(place, value)
        return text


def _acts_of(keys: Sequence[Any]) -> list[UUID]:
    """What the log tells of these keys."""
    return [act for row in keys for act in (row.act, row.retired_act, row.revoked_act) if act]


def _witnesses(policy: Policy, checkpoint: str) -> str:
    """What the README says of who cosigned the checkpoint, and how to check it."""
    if not policy.witnesses:
        return "该日志没有设置见证人。This log has no witnesses."
    vkeys = [witness.vkey for witness in policy.witnesses]
    cosigned = verify.verify_cosignatures(checkpoint, verify.parse_witnesses(vkeys))
    lines = [
        f"该日志要求 {len(vkeys)} 个见证人中至少 {policy.need} 个联署，本检查点有 {len(cosigned)} 个。",
        f"The log asks for {policy.need} of {len(vkeys)} witnesses; this checkpoint has {len(cosigned)}.",
    ]
    if len(cosigned) < policy.need:
        lines.append("导出时其余见证人没有应答。The others did not answer when this was exported.")
    if cosigned:
        keys = " ".join(f"'{vkey}'" for vkey in vkeys)
        command = f"python3 verify.py . --witness {keys} --need {min(policy.need, len(cosigned))}"
        lines += ["", "```text", command, "```"]
    return "\n".join(lines)


def _timestamps(stamps: list[Any]) -> str:
    """What the README says of tokens, with the stock command for each."""
    if not stamps:
        return "本包没有时间戳。There is no time-stamp token in this bundle."
    lines = [
        "时间戳机构为较早的检查点所盖的时间戳；`timestamps/*.consistency` 证明本包的日志是它的延续。",
        "Tokens on earlier checkpoints; `timestamps/*.consistency` prove that this log continues them.",
        "",
        "```sh",
    ]
    for stamp in stamps:
        stem, key = f"timestamps/{stamp.size}", f"keys/tsa-{stamp.tsa}.pem"
        at = int(stamp.stamped_at.timestamp())
        lines.append(
            f"openssl ts -verify -data {stem}.checkpoint -in {stem}.tsr"
            f" -partial_chain -attime {at} -CAfile {key} -untrusted {key}"
        )
    return "\n".join([*lines, "```"])


def _offsets(segments: list[dict[str, Any]]) -> bytes:
    lines, offset = ["sequence\toffset\tsize\tsha256"], 0
    for segment in segments:
        lines.append(f"{segment['sequence']}\t{offset}\t{segment['size']}\t{segment['sha256']}")
        offset += segment["size"]
    return ("\n".join(lines) + "\n").encode()


def _list(digests: dict[str, str]) -> bytes:
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items())).encode()


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
