"""An unmodified ffmpeg that pushes, and what it needs for that."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy.local.stack import run_apart
from services.terminal.capture import find_ffmpeg
from services.vault.contract.wire import VaultIdentity
from tests.flows.evidence import eventually
from tests.flows.hand_terminal import pem_of
from tests.system import System

FMP4 = ("-f", "mp4", "-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-method", "PUT")
TS = ("-f", "mpegts", "-method", "PUT")
HLS = ("-f", "hls", "-method", "PUT", "-http_persistent", "1", "-hls_time", "1", "-hls_list_size", "3")


def _picture() -> str:
    """Never the same twice, as with any camera."""
    return f"testsrc=size=320x180:rate=10,noise=alls=8:allf=t:all_seed={random.randrange(1 << 30)}"


class Source:
    """A source of the demo bureau with one push address."""

    def __init__(self, system: System, kind: str = "encoder", name: str = "来源", **address: Any):
        self.system = system
        with system.sign_in("admin") as admin:
            made = admin.post("/v1/recorders", json={"name": name[:64], "kind": kind})
            made.raise_for_status()
            self.id = made.json()["id"]
            given = admin.post(f"/v1/recorders/{self.id}/push-addresses", json=address)
            given.raise_for_status()
        self.address, self.url = given.json()["id"], given.json()["url"]
        self.uploads, self.files = given.json()["uploads"], given.json()["files"]

    def revoke(self) -> None:
        with self.system.sign_in("admin") as admin:
            admin.post(f"/v1/recorders/{self.id}/push-addresses/{self.address}/revocation").raise_for_status()

    def push(
        self, name: str, *options: str, seconds: float = 4, codec: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        """ffmpeg on its way, at real-time pace."""
        argv = [find_ffmpeg(None), "-v", "error", "-re", "-f", "lavfi", "-i", _picture()]
        argv += ["-f", "lavfi", "-i", "sine=sample_rate=48000", "-t", str(seconds)]
        argv += codec or ("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac")
        argv += ["-g", "10", *options, self.url + name]
        return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def copy(self, name: str, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """ffmpeg sends a file as it is, as fast as it is taken."""
        argv = [find_ffmpeg(None), "-v", "error", "-i", str(file), "-c", "copy", *options, self.url + name]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def recordings(self) -> list[dict[str, Any]]:
        """Those of this source, the oldest first."""
        told = self.system.stack.postgres.run_sql(
            "SELECT coalesce(json_agg(row_to_json(r) ORDER BY r.id), '[]') FROM api.recordings r "
            f"WHERE recorder_id = '{self.id}'"
        )
        found: list[dict[str, Any]] = json.loads(told)
        return found

    def closed(self, count: int = 1) -> list[dict[str, Any]]:
        """Those of this source, once there are `count` and the server has closed them all."""

        def all_closed() -> list[dict[str, Any]] | None:
            found = self.recordings()
            return found if [one["state"] for one in found] == ["closed"] * count else None

        return eventually(all_closed, f"{count} closed recordings", 40)

    def gaps(self) -> list[dict[str, Any]]:
        told = self.system.stack.postgres.run_sql(
            "SELECT coalesce(json_agg(row_to_json(g) ORDER BY g.id), '[]') FROM api.gaps g"
            f" JOIN api.recordings r ON r.id = g.recording_id WHERE r.recorder_id = '{self.id}'"
        )
        found: list[dict[str, Any]] = json.loads(told)
        return found


def exported(system: System, recording: str) -> Path:
    """The media of a recording, out of an export that a stranger has verified."""
    (media,) = (verified(system, system.export(recording)) / "data").glob(f"{recording}.*")
    return media


def verified(system: System, folder: Path) -> Path:
    """The export, once a stranger has verified it."""

    async def told() -> VaultIdentity:
        async with system.vault() as vault:
            return await vault.identity()

    identity = run_apart(told())
    receipt, log = system.folder / "push-receipt.pem", system.folder / "push-log.vkey"
    receipt.write_bytes(pem_of(identity.receipt_key))
    log.write_text(identity.log_vkey + "\n")
    argv = [
        sys.executable,
        "-I",
        str(folder / "verify.py"),
        str(folder),
        "--trust",
        str(receipt),
        "--trust",
        str(log),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    return folder


def frames(media: Path, kind: str = "v") -> int:
    """How many pictures (or packets of sound) decode from a file."""
    argv = [find_ffmpeg(None), "-v", "error", "-i", str(media), "-map", f"0:{kind}", "-f", "framecrc", "-"]
    told = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
    return sum(not line.startswith("#") for line in told.splitlines())
