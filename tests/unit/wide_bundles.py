"""Genuine exports of more than closed recordings: what is open, series, what was disposed of, and copies."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

from services.vault.contract import verify
from services.vault.contract.wire import canonical, series_act
from tests.unit.bundles import ID, TIME, Json, Maker, unb64, write

OPEN = ID[:-12] + "aaaaaaaaaaaa"
GONE = ID[:-12] + "bbbbbbbbbbbb"
SERIES = ID[:-12] + "cccccccccccc"
ORDER = ID[:-12] + "dddddddddddd"
GONE_SERIES = ID[:-12] + "eeeeeeeeeeee"
RECEIPTS_OF_OPEN, RECEIPTS_OF_SERIES = f"recordings/{OPEN}.open/receipts.jsonl", f"series/{SERIES}/receipts.jsonl"
TOMBSTONE, TOMBSTONE_OF_SERIES = f"recordings/{GONE}/tombstone.dsse.json", f"series/{GONE_SERIES}/tombstone.dsse.json"
CONFLICT = 2
"""A sequence of the open recording, and a version of the series, that were sealed with different content."""


@dataclass
class Wide(Maker):
    """Beside the recordings of `Maker`: one open, one disposed of, a series, a disposed series, a copy."""

    open_sizes: tuple[int, ...] = (200, 900, 800)
    versions: tuple[int, ...] = (400, 500, 600)

    def more(self, root: Path, ids: list[str]) -> Json:
        self._open(root)
        self._series(root, SERIES)
        self._gone(root)
        self._gone_series(root)
        write(root, f"data/copies/{ID}.mp4", b"a plain file that a player opens")
        envelope = (root / f"recordings/{ID}/manifest.dsse.json").read_bytes()
        note = {
            "copy_of": ID,
            "manifest_sha256": hashlib.sha256(envelope).hexdigest(),
            "made": True,
            "tool": "ffmpeg",
        }
        copied = (root / f"data/copies/{ID}.mp4").read_bytes()
        note |= {"sha256": hashlib.sha256(copied).hexdigest(), "size": len(copied)}
        self.alter("copy", note)
        write(root, f"copies/{ID}.json", canonical(note) + b"\n")
        return {"recordings": [*ids, OPEN, GONE], "series": [SERIES, GONE_SERIES]}

    def _sealed(self, id_: str, sequence: int, size: int, media: str) -> tuple[bytes, Json]:
        body = self.dice.randbytes(size)
        digest = hashlib.sha256(body).hexdigest()
        store = {"key": f"recordings/{id_}/{sequence}-{digest}", "version": str(uuid.UUID(int=sequence))}
        receipt = {
            **{"recording": id_, "sequence": sequence, "sha256": digest, "size": size, "media": media},
            **{"started_at": TIME, "duration_ms": 1000, "monotonic_ms": 0, "asked_at": TIME, "sealed_at": TIME},
            "store": {**store, "lock": "compliance", "retain_until": "2027-11-23T00:00:00.000Z"},
        }
        if media == "file":
            receipt["metadata_sha256"] = hashlib.sha256(b"title").hexdigest()
        return body, receipt

    def _open(self, root: Path) -> None:
        sealed = [self._sealed(OPEN, n, size, "media" if n else "init") for n, size in enumerate(self.open_sizes)]
        body, other = self._sealed(OPEN, CONFLICT, 333, "media")
        offsets, at = ["sequence\toffset\tsize\tsha256"], 0
        for data, one in sealed:
            offsets.append(f"{one['sequence']}\t{at}\t{one['size']}\t{one['sha256']}")
            at += len(data)
        write(root, f"data/{OPEN}.open.mp4", b"".join(data for data, _ in sealed))
        write(root, f"data/{OPEN}.open.beside/{CONFLICT:010d}-{other['sha256']}", body)
        write(root, f"recordings/{OPEN}.open/offsets.tsv", "\n".join(offsets) + "\n")
        receipts = [one for _, one in sealed] + [other]
        names = [{"sequence": one["sequence"], "sha256": one["sha256"]} for one in receipts]
        self._receipts(root, RECEIPTS_OF_OPEN, receipts)
        self._state("segments", {"recording": OPEN, "segments": names[:2]})
        self._state("segments", {"recording": OPEN, "segments": names[2:]})
        self._conflict(OPEN, receipts)

    def _series(self, root: Path, id_: str, *, files: bool = True) -> list[Json]:
        sealed = [self._sealed(id_, n, size, "file") for n, size in enumerate(self.versions, 1)]
        sealed.insert(CONFLICT, self._sealed(id_, CONFLICT, 333, "file"))
        for place, (data, one) in enumerate(sealed if files else []):
            suffix = f"-{one['sha256']}" if place == CONFLICT else ""
            write(root, f"data/series/{id_}/{one['sequence']}{suffix}", data)
        receipts = [one for _, one in sealed]
        told = [(one["sequence"], one["sha256"], one["metadata_sha256"]) for one in receipts]
        self._receipts(root, f"series/{id_}/receipts.jsonl", receipts)
        for version, sha256, metadata in told:
            fields = {"series": id_, "version": version, "sha256": sha256, "metadata_sha256": metadata}
            self._state("series", fields, series_act(uuid.UUID(id_), version, sha256))
        self._conflict(id_, receipts)
        return receipts

    def _conflict(self, id_: str, receipts: list[Json]) -> None:
        digests = [one["sha256"] for one in receipts if one["sequence"] == CONFLICT]
        self._state("conflict", {"recording": id_, "sequence": CONFLICT, "sha256": digests})

    def _gone(self, root: Path) -> None:
        self._recording(root, GONE)
        (root / f"data/{GONE}.mp4").unlink()
        for left in (root / f"data/{GONE}.beside").glob("*"):
            left.unlink()
        envelope = (root / f"recordings/{GONE}/manifest.dsse.json").read_bytes()
        segments = len(self.sizes) + len(self.beside)
        self._bury(root, "recordings", GONE, [envelope], segments, sum(self.sizes) + sum(self.beside))

    def _gone_series(self, root: Path) -> None:
        receipts = self._series(root, GONE_SERIES, files=False)
        self._bury(root, "series", GONE_SERIES, [], len(receipts), sum(one["size"] for one in receipts))

    def _bury(self, root: Path, top: str, id_: str, manifests: list[bytes], segments: int, size: int) -> None:
        act = uuid.uuid5(uuid.UUID(id_), "disposal")
        digests = [hashlib.sha256(one).hexdigest() for one in manifests]
        fields = {"recording": id_, "order": ORDER, "order_sha256": "3" * 64, "manifests": digests}
        fields |= {"custodians": ["1" * 64, "2" * 64]}
        self._state("disposal", fields, act)
        told: Json = {"recording": id_, "order": ORDER, "act": str(act), "began_at": TIME, "disposed_at": TIME}
        told |= {"segments": segments, "media_bytes": size}
        envelope = self.envelope("tombstone", told, self.vault)
        stem = f"{top}/{id_}/tombstone"
        write(root, f"{stem}.dsse.json", canonical(envelope))
        write(root, f"{stem}.pae", verify.pae(envelope["payloadType"], unb64(envelope["payload"])))
        write(root, f"{stem}.sig", unb64(envelope["signatures"][0]["sig"]))

    def _receipts(self, root: Path, name: str, receipts: list[Json]) -> None:
        envelopes = [self.envelope("receipt", one, self.vault) for one in receipts]
        write(root, name, b"".join(canonical(one) + b"\n" for one in envelopes))
