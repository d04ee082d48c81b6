"""Makes genuine exports with fresh keys, and lets a test alter what is signed before it is signed.

The media are random bytes: the verifier never looks into them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.vault.contract import verify
from services.vault.contract.wire import canonical
from services.vault.log import note, statement, tree

Json = dict[str, Any]
Alter = Callable[[str, Json], None]
"""Told the kind (of an envelope or a statement) and the payload, which it changes in place."""

ORIGIN = "quancheng.test/0a1b2c3d"
TIME = "2026-11-23T17:34:40.123Z"
BAGIT = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
SIZES = (300, 2000, 1500, 1800)
ID = "0193570c-0000-7000-8000-000000000000"
"""The first recording of any export made here."""
FOLDER = f"recordings/{ID}"
MEDIA = f"data/{ID}.mp4"
MANIFEST, RECEIPTS = f"{FOLDER}/manifest.dsse.json", f"{FOLDER}/receipts.jsonl"
Change = Callable[[Path], None]


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: Ed25519PrivateKey) -> str:
    return verify.key_id(verify.raw_key(key.public_key()))


@dataclass
class Maker:
    """One vault, one log and one terminal, with keys of their own."""

    alter: Alter = lambda kind, payload: None
    vault: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    log: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    terminal: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    recorder: str = "0193570c-1111-7000-8000-000000000000"
    recordings: int = 1
    sizes: tuple[int, ...] = SIZES
    missing: tuple[int, ...] = ()
    beside: tuple[int, ...] = ()
    """Sizes of segments that were sealed under sequence 1 and that the closing does not speak of."""
    supplements: tuple[tuple[int, ...], ...] = ()
    """Sizes of the segments of each supplement; they go on where the recording ended."""
    by_server: str = ""
    """Why the server closed the recording; by the terminal if it says nothing."""
    others: int = 300
    """Entries of others that come before ours in the log."""

    def make(self, root: Path) -> Path:
        """Write the export to `root`, which must not exist."""
        self.statements: list[tuple[bytes, bytes]] = []
        self.dice = random.Random(1)
        root.mkdir(parents=True)
        self._enrol()
        ids = [ID[:-12] + f"{number:012d}" for number in range(self.recordings)]
        for id_ in ids:
            self._recording(root, id_)
            after = len(self.sizes) + len(self.missing)
            for number, sizes in enumerate(self.supplements, 1):
                self._recording(root, id_, number, dict(enumerate(sizes, after)))
                after += len(sizes)
        exported = {"person": str(uuid.UUID(int=7)), "purpose": "case-handling", **self.more(root, ids)}
        self._state("export", exported)
        vkey = note.vkey(ORIGIN, verify.raw_key(self.log.public_key()))
        write(root, "keys/log.vkey", vkey + "\n")
        write(root, "keys/vault.pem", public_pem(self.vault.public_key()))
        write(root, "keys/log.pem", public_pem(self.log.public_key()))
        write(root, f"keys/terminal-{key_id(self.terminal)}.pem", public_pem(self.terminal.public_key()))
        self._log(root)
        write(root, "bagit.txt", BAGIT)
        write(root, "bag-info.txt", "Bagging-Date: 2026-11-23\n")
        write(root, "README.md", "# 如何验证 / How to verify\n")
        shutil.copyfile(verify.__file__, root / "verify.py")
        self.list_and_sign(root)
        return root

    def more(self, root: Path, ids: list[str]) -> Json:
        """What else is exported, written to `root`; returns what the export's statement says it is of."""
        return {"recordings": ids}

    def list_and_sign(self, root: Path) -> None:
        """The listings, and the vault's signature over them, as only the vault can."""
        relist(root)
        write(root, verify.TAG_SIGNATURE, self.vault.sign((root / verify.TAG_LISTING).read_bytes()))

    @property
    def trusted(self) -> dict[str, Ed25519PublicKey]:
        return {key_id(key): key.public_key() for key in (self.vault, self.log)}

    def envelope(self, kind: str, payload: Json, key: Ed25519PrivateKey) -> Json:
        self.alter(kind, payload)
        return sign(f"application/vnd.quancheng.{kind}.v1+json", canonical(payload), key)

    def _enrol(self) -> None:
        raw = verify.raw_key(self.terminal.public_key())
        fields = {"recorder": self.recorder, "key_id": verify.key_id(raw), "public_key": b64(raw)}
        self._state("enrolment", fields)

    def _recording(self, root: Path, id_: str, number: int = 0, late: dict[int, int] | None = None) -> None:
        media, segments, receipts, offsets = b"", [], [], ["sequence\toffset\tsize\tsha256"]
        sequences = [n for n in range(len(self.sizes) + len(self.missing)) if n not in self.missing]
        sizes = dict(zip(sequences, self.sizes, strict=True)) if late is None else late
        for sequence, size in sizes.items():
            body = self.dice.randbytes(size)
            digest = hashlib.sha256(body).hexdigest()
            common = {
                "sequence": sequence,
                "size": size,
                "sha256": digest,
                "media": "media" if sequence else "init",
                "started_at": TIME,
                "duration_ms": 1000 if sequence else 0,
                "monotonic_ms": 1000 * sequence,
                "sealed_at": TIME,
            }
            stored = {"key": f"recordings/{id_}/{sequence}-{digest}", "version": str(uuid.UUID(int=sequence))}
            lock = {"lock": "compliance", "retain_until": "2027-11-23T00:00:00.000Z"}
            receipt = {**common, "recording": id_, "asked_at": TIME, "store": {**stored, **lock}}
            receipts.append(self.envelope("receipt", receipt, self.vault))
            segments.append({**common, **stored, "asked_at": TIME})
            offsets.append(f"{sequence}\t{len(media)}\t{size}\t{digest}")
            media += body
        beside = [self._beside(root, id_, size, receipts) for size in self.beside if not number]
        leaves = [f"{s['sequence']} {s['sha256']} {s['size']}\n".encode() for s in segments]
        told = {
            "recording": id_,
            "count": len(segments),
            "root": verify.merkle_root(leaves).hex(),
            "missing": [] if number else list(self.missing),
            "started_at": TIME,
            "ended_at": TIME,
        }
        signed = {**told, "interrupted": False} | ({"number": number, "sequences": list(sizes)} if number else {})
        by_server = bool(self.by_server) and not number
        manifest = {
            **told,
            "number": number,
            "source": {"recorder": self.recorder, "key_id": key_id(self.terminal)},
            "closed_by": "server" if by_server else "terminal",
            **({"reason": self.by_server} if by_server else {}),
            **({} if by_server else {"closing": self.envelope("closing", signed, self.terminal)}),
            "segments": segments,
            "beside": beside,
            "lock": "compliance",
        }
        envelope = self.envelope("manifest", manifest, self.vault)
        name = f"{id_}.{number}" if number else id_
        folder = f"recordings/{name}"
        write(root, f"data/{name}.mp4", media)
        write(root, f"{folder}/manifest.dsse.json", canonical(envelope))
        write(root, f"{folder}/manifest.pae", verify.pae(envelope["payloadType"], unb64(envelope["payload"])))
        write(root, f"{folder}/manifest.sig", unb64(envelope["signatures"][0]["sig"]))
        write(root, f"{folder}/receipts.jsonl", b"".join(canonical(one) + b"\n" for one in receipts))
        write(root, f"{folder}/offsets.tsv", "\n".join(offsets) + "\n")
        names = [{"sequence": s["sequence"], "sha256": s["sha256"]} for s in segments]
        names += [{"sequence": 1, "sha256": one["sha256"]} for one in beside]
        self._state("segments", {"recording": id_, "segments": names[:2]})
        self._state("segments", {"recording": id_, "segments": names[2:]})
        if beside:
            digests = [name["sha256"] for name in names if name["sequence"] == 1]
            self._state("conflict", {"recording": id_, "sequence": 1, "sha256": digests})
        digest = hashlib.sha256(canonical(envelope)).hexdigest()
        self._state("manifest", {"recording": id_, "number": number, "sha256": digest})

    def _beside(self, root: Path, id_: str, size: int, receipts: list[Json]) -> Json:
        body = self.dice.randbytes(size)
        digest = hashlib.sha256(body).hexdigest()
        times = {"started_at": TIME, "duration_ms": 1000, "monotonic_ms": 1000, "asked_at": TIME, "sealed_at": TIME}
        common = {"sha256": digest, "size": size, "media": "media", **times}
        stored = {"key": f"recordings/{id_}/1-{digest}", "version": str(uuid.UUID(int=size))}
        store = {**stored, "lock": "compliance", "retain_until": "2027-11-23T00:00:00.000Z"}
        receipt = {**common, "recording": id_, "sequence": 1, "store": store}
        receipts.append(self.envelope("receipt", receipt, self.vault))
        write(root, f"data/{id_}.beside/{1:010d}-{digest}", body)
        return {**common, **stored, "of_sequence": 1}

    def _state(self, kind: str, fields: Json, act: uuid.UUID | None = None) -> None:
        act = act or uuid.UUID(int=0x7000_8000_0000_0000_0000 + len(self.statements))
        said = json.loads(statement.build(kind, act, datetime(2026, 11, 23, tzinfo=UTC), fields))
        self.alter(kind, said)
        self.statements.append((self.dice.randbytes(32), canonical(said)))

    def _log(self, root: Path) -> None:
        leaves = [self.dice.randbytes(32) for _ in range(self.others)]
        leaves += [statement.leaf_data(salt, text) for salt, text in self.statements]
        leaves += [self.dice.randbytes(32) for _ in range(5)]
        tiles = tree.append(0, [verify.leaf_hash(leaf) for leaf in leaves], lambda place: b"")
        size = len(leaves)
        checkpoint = note.sign_checkpoint(ORIGIN, size, tree.root(size, tiles.__getitem__), self.log)
        write_checkpoint(root, checkpoint)
        for index, (salt, text) in enumerate(self.statements, self.others):
            hashes = tree.inclusion_proof(index, size, tiles.__getitem__)
            proof = statement.proof_text(index, hashes, checkpoint, salt, text)
            write(root, f"proofs/{json.loads(text)['act']}.tlog-proof", proof)


def sign(payload_type: str, payload: bytes, key: Ed25519PrivateKey) -> Json:
    signature = {"keyid": key_id(key), "sig": b64(key.sign(verify.pae(payload_type, payload)))}
    return {"payloadType": payload_type, "payload": b64(payload), "signatures": [signature]}


def write_checkpoint(root: Path, checkpoint: str) -> None:
    parsed = verify.parse_note(checkpoint)
    write(root, "checkpoint", checkpoint)
    write(root, "checkpoint.body", parsed.text)
    write(root, "checkpoint.sig", parsed.signatures[0].signature)


def write(root: Path, name: str, content: bytes | str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def relist(root: Path) -> None:
    """Write both listings anew, as whoever alters an export can."""
    (root / "tagmanifest-sha256.txt").unlink(missing_ok=True)
    (root / "manifest-sha256.txt").unlink(missing_ok=True)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    media = [path for path in files if path.relative_to(root).parts[0] == "data"]
    write(root, "manifest-sha256.txt", listing(root, media))
    tags = [path for path in files if path not in media and path.name != verify.TAG_SIGNATURE]
    write(root, "tagmanifest-sha256.txt", listing(root, [*tags, root / "manifest-sha256.txt"]))


def listing(root: Path, paths: list[Path]) -> str:
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root).as_posix()}\n" for path in paths
    )


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64(text: str) -> bytes:
    return base64.b64decode(text)


def one(bundle: Path, pattern: str) -> Path:
    return sorted(bundle.glob(pattern))[0]


def edited(name: str, edit: Callable[[bytes], bytes]) -> Change:
    def change(bundle: Path) -> None:
        path = one(bundle, name)
        path.write_bytes(edit(path.read_bytes()))

    return change


def flip_last(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def refused(report: verify.Report, code: int, subject: str) -> None:
    assert (report.code, report.subject) == (code, subject), report
    assert report.chinese.startswith(f"{subject}：")
    assert report.chinese.endswith("。")
    assert report.english.startswith(f"{subject}: ")
