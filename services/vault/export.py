"""An export: one tar that becomes a BagIt 1.0 bag, checked with stock tools or with the verifier inside it.

1. The export's own act stands in the log already (the api appended it); no log, no export.
2. One checkpoint is taken, cosigned by as many witnesses as the policy needs if they answer within a bounded
   time, and every proof in the bundle is made for it.
3. The media flows from the store as it lies there, sealed segment after sealed segment, one file a
   recording; each byte is hashed on its way, and a segment that is not what its receipt says ends the stream.
4. Manifests, receipts, offsets, proofs, keys, the verifier and a README follow; the bag's own lists are last.

Memory is one chunk of media and one recording's lists, however large the export is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from services.vault import errors
from services.vault.contract import verify, wire
from services.vault.keys import Keys, pem
from services.vault.log.checkpoints import Checkpoints
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

    def head(self, path: str, size: int) -> bytes:
        info = tarfile.TarInfo(f"{self._name}/{path}")
        info.size, info.mtime, info.mode = size, self._mtime, 0o644
        return info.tobuf(tarfile.PAX_FORMAT)

    def tag(self, path: str, data: bytes) -> bytes:
        self.tags[path] = hashlib.sha256(data).hexdigest()
        return self.head(path, len(data)) + data + _padding(len(data))

    def last(self, path: str, data: bytes) -> bytes:
        """The one file that no list names: it lists the others."""
        return self.head(path, len(data)) + data + _padding(len(data)) + _ZEROS


class Exporter:
    def __init__(
        self,
        engine: AsyncEngine,
        store: Store,
        keys: Keys,
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
            closed = set(
                await db.scalars(
                    select(col(Manifest.recording_id)).where(col(Manifest.recording_id).in_(request.recordings))
                )
            )
        if logged is None:
            raise errors.NoSuchStatement
        told = json.loads(logged)
        if told.get("kind") != "export" or told.get("recordings") != [str(r) for r in request.recordings]:
            raise errors.ActDiffers
        if closed != set(request.recordings):
            raise errors.NoSuchRecording
        manifests = await self._manifests(request.recordings)
        for row in manifests:
            await self._sequencer.settled(row.act)
        return self._stream(request, manifests, datetime.fromisoformat(told["at"]))

    async def _manifests(self, recordings: list[UUID]) -> list[Any]:
        query: Select[*tuple[Any, ...]] = select(
            Manifest,
            col(Recording.key_id),
            col(Enrolment.public_key),
            col(Enrolment.act).label("enrolment_act"),
        )
        query = query.join(Recording, col(Recording.id) == col(Manifest.recording_id))
        query = query.join(Enrolment, col(Enrolment.key_id) == col(Recording.key_id))
        async with self._engine.connect() as db:
            rows = await db.execute(query.where(col(Manifest.recording_id).in_(recordings)))
            return sorted(rows, key=lambda row: row.recording_id)

    async def _stream(
        self, request: wire.ExportRequest, manifests: list[Any], moment: datetime
    ) -> AsyncIterator[bytes]:
        bag = _Bag(f"quancheng-{request.act}", moment)
        acts = {request.act} | {row.act for row in manifests} | {row.enrolment_act for row in manifests}
        # 2. One checkpoint for all proofs. A recording's other statements were entered before its manifest's.
        positions = {act: await self._sequencer.position(act) for act in acts}
        size, checkpoint = await self._checkpoints.covering(max(positions.values()) + 1)
        stamps = await self._timestamper.covering([positions[row.act] for row in manifests], size)
        yield bag.tag("bagit.txt", _BAGIT)
        for row in manifests:
            envelope = wire.Envelope.model_validate_json(row.envelope)
            payload = envelope.decoded()
            # 3. The media.
            async for chunk in self._media(bag, row.recording_id, payload["segments"], row.media_bytes):
                yield chunk
            # 4. What makes it verifiable.
            folder = f"recordings/{row.recording_id}"
            body = base64.b64decode(envelope.payload)
            yield bag.tag(f"{folder}/manifest.dsse.json", row.envelope)
            yield bag.tag(f"{folder}/manifest.pae", verify.pae(envelope.payloadType, body))
            yield bag.tag(f"{folder}/manifest.sig", base64.b64decode(envelope.signatures[0].sig))
            receipts, told = await self._receipts(row.recording_id, payload["segments"])
            acts |= told
            yield bag.tag(f"{folder}/receipts.jsonl", receipts)
            yield bag.tag(f"{folder}/offsets.tsv", _offsets(payload["segments"]))
            if f"keys/terminal-{row.key_id}.pem" not in bag.tags:
                yield bag.tag(f"keys/terminal-{row.key_id}.pem", pem(row.public_key).encode())
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
        for part in self._constant(bag, checkpoint, manifests, moment, stamps):
            yield part

    def _constant(
        self, bag: _Bag, checkpoint: str, manifests: list[Any], moment: datetime, stamps: list[Any]
    ) -> list[bytes]:
        note = verify.parse_note(checkpoint)
        log = verify.parse_vkey(self._keys.log_vkey)
        signature = next(line.signature for line in note.signatures if line.name == log.name)
        parts = [
            bag.tag("checkpoint", checkpoint.encode()),
            bag.tag("checkpoint.body", note.text.encode()),
            bag.tag("checkpoint.sig", signature),
            bag.tag("keys/vault.pem", pem(self._keys.receipt_public).encode()),
            bag.tag("keys/log.pem", pem(self._keys.log_public).encode()),
            bag.tag("keys/log.vkey", self._keys.log_vkey.encode() + b"\n"),
            bag.tag("verify.py", Path(verify.__file__).read_bytes()),
            bag.tag("README.md", self._readme(manifests, checkpoint, stamps).encode()),
            bag.tag("manifest-sha256.txt", _list(bag.payload)),
        ]
        info = {
            "Source-Organization": self._keys.origin,
            "Bagging-Date": moment.date().isoformat(),
            "Payload-Oxum": f"{bag.payload_bytes}.{len(bag.payload)}",
        }
        parts.append(bag.tag("bag-info.txt", "".join(f"{k}: {v}\n" for k, v in info.items()).encode()))
        parts.append(bag.last("tagmanifest-sha256.txt", _list(bag.tags)))
        return parts

    async def _media(
        self, bag: _Bag, recording: UUID, segments: list[dict[str, Any]], size: int
    ) -> AsyncIterator[bytes]:
        path = f"data/{recording}.mp4"
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

    async def _receipts(self, recording: UUID, segments: list[dict[str, Any]]) -> tuple[bytes, set[UUID]]:
        columns = (
            col(Segment.sequence),
            col(Segment.sha256),
            col(Segment.receipt),
            col(Segment.statement_act),
        )
        query = select(*columns).where(col(Segment.recording_id) == recording, col(Segment.state) == "sealed")
        async with self._engine.connect() as db:
            rows = {(row.sequence, row.sha256): row for row in await db.execute(query)}
        ordered = [rows[segment["sequence"], segment["sha256"]] for segment in segments]
        lines = b"".join(wire.canonical(row.receipt) + b"\n" for row in ordered)
        return lines, {row.statement_act for row in ordered}

    def _readme(self, manifests: list[Any], checkpoint: str, stamps: list[Any]) -> str:
        text = _README.read_text("utf-8")
        commands = [_commands(row.recording_id, row) for row in manifests]
        first = str(manifests[0].recording_id)
        return (
            text.replace("@RECORDING@", first)
            .replace("@COMMANDS@", "\n".join(commands))
            .replace("@VAULT_KEY@", self._keys.receipt_key_id)
            .replace("@LOG_KEY@", self._keys.log_vkey)
            .replace("@TIMESTAMPS@", _timestamps(stamps))
            .replace("@WITNESSES@", _witnesses(self._checkpoints.policy, checkpoint))
        )


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


def _commands(recording: UUID, row: Any) -> str:
    last = wire.Envelope.model_validate_json(row.envelope).decoded()["segments"][-1]
    offset = row.media_bytes - last["size"]
    folder = f"recordings/{recording}"
    return (
        f"openssl pkeyutl -verify -pubin -inkey keys/vault.pem -rawin"
        f" -in {folder}/manifest.pae -sigfile {folder}/manifest.sig\n"
        f"grep -q {last['sha256']} {folder}/manifest.pae &&"
        f" tail -c +{offset + 1} data/{recording}.mp4 | head -c {last['size']} | sha256sum |"
        f" grep -q {last['sha256']} && echo OK"
    )


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
