"""What every flow must leave behind: an export that verifies, and a log that is whole."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import imageio_ffmpeg

from services.vault.contract import verify, wire
from tests.flows.hand_terminal import pem_of, pinned_by
from tests.flows.live import receipts_of
from tests.system import System

_T = TypeVar("_T")


@dataclass(frozen=True)
class Bundle:
    """An unpacked export of one recording, and the keys that its terminal pinned, as files for the verifier."""

    folder: Path
    recording: str
    trusted: list[Path]

    @property
    def media(self) -> Path:
        return self.folder / "data" / f"{self.recording}.mp4"

    @property
    def receipts(self) -> Path:
        return self.folder / "recordings" / self.recording / "receipts.jsonl"

    def manifest(self) -> dict[str, Any]:
        envelope = (self.folder / "recordings" / self.recording / "manifest.dsse.json").read_bytes()
        return wire.Envelope.model_validate_json(envelope).decoded()

    def closing(self) -> dict[str, Any]:
        return wire.Envelope.model_validate(self.manifest()["closing"]).decoded()

    def segments(self) -> Iterator[bytes]:
        """The media cut where the manifest says."""
        with self.media.open("rb") as file:
            for segment in self.manifest()["segments"]:
                yield file.read(segment["size"])
            assert not file.read(1)

    def verify(self) -> subprocess.CompletedProcess[str]:
        """The bundle's own copy of the verifier, as a stranger runs it."""
        argv = [sys.executable, "-I", str(self.folder / "verify.py"), str(self.folder)]
        trust = [part for path in self.trusted for part in ("--trust", str(path))]
        return subprocess.run([*argv, *trust], capture_output=True, text=True, timeout=60, check=False)


def export(system: System, home: Path, recording: str) -> Bundle:
    identity = pinned_by((home / "terminal.json").read_bytes())
    receipt, log = home / "pinned-vault.pem", home / "pinned-log.vkey"
    receipt.write_bytes(pem_of(identity.receipt_key))
    log.write_text(identity.log_vkey + "\n")
    return Bundle(system.export(recording), recording, [receipt, log])


def assert_nothing_lost(system: System, home: Path, recording: str, receipted: set[int]) -> Bundle:
    """Every receipt the terminal verified is the vault's, and the store has the bytes it speaks of.

    `receipted` are sequences that the terminal said were sealed before the fault.
    """
    bundle = export(system, home, recording)
    verified = bundle.verify()
    assert verified.returncode == 0, verified.stdout
    kept = receipts_of(home, recording)
    assert receipted <= set(kept)
    exported = [json.loads(line) for line in bundle.receipts.read_text().splitlines()]
    assert exported == [kept[sequence] for sequence in sorted(kept)]
    assert not list((home / "spool").iterdir()), "the spool is empty once everything is receipted and closed"
    assert not list((home / "done" / recording).glob("*.seg"))
    assert_log_is_whole(system)
    return bundle


def assert_log_is_whole(system: System) -> None:
    """No index twice, none left out, no act twice; head, leaves and published checkpoint tell one tree."""
    # One statement, so that everything is read at one instant.
    told = json.loads(
        system.stack.postgres.run_sql(
            "SELECT json_build_object('size', size, 'root', encode(root, 'hex'), 'entries',"
            " (SELECT json_agg(json_build_array(position, act, encode(leaf, 'hex')) ORDER BY position)"
            "  FROM vault.log_entries)) FROM vault.log_head"
        )
    )
    entries = told["entries"]
    assert [position for position, _, _ in entries] == list(range(told["size"]))
    assert len({act for _, act, _ in entries}) == len(entries)
    leaves = [bytes.fromhex(leaf) for _, _, leaf in entries]
    assert verify.merkle_root(leaves).hex() == told["root"]
    origin = json.loads((system.stack.data / "secrets" / "origin.json").read_text())["origin"]

    def published() -> verify.Checkpoint | None:
        note = httpx.get(f"{system.stack.vault_url}/log/checkpoint", timeout=10, trust_env=False)
        found = verify.verify_note(note.text, log_vkey(system)) if note.status_code == 200 else None
        return found if found and found.size >= told["size"] else None

    checkpoint = eventually(published, "the published checkpoint reaches the head")
    assert checkpoint.origin == origin
    if checkpoint.size == told["size"]:
        assert checkpoint.root.hex() == told["root"]


def log_vkey(system: System) -> str:
    """The log's verifier key, made from what the database has on record for it."""
    raw = bytes.fromhex(
        system.stack.postgres.run_sql(
            "SELECT encode(public_key, 'hex') FROM vault.keys WHERE purpose = 'log' AND superseded_at IS NULL"
        ).strip()
    )
    name = json.loads((system.stack.data / "secrets" / "origin.json").read_text())["origin"]
    material = base64.b64encode(verify.ED25519_NOTE + raw).decode()
    return f"{name}+{verify.note_key_id(name, raw).hex()}+{material}"


def eventually(look: Callable[[], _T | None], what: str, timeout: float = 20) -> _T:
    """What `look` finds, at the latest after `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        try:
            found = look()
        except httpx.TransportError:
            found = None
        if found:
            return found
        assert time.monotonic() < until, f"not within {timeout} s: {what}"
        time.sleep(0.05)


def assert_plays(media: Path) -> None:
    """Every picture and every sound in the file decodes without an error."""
    argv = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror", "-i", str(media), "-f", "null", "-"]
    decoded = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (decoded.returncode, decoded.stderr) == (0, "")
