"""Folders as recorders leave them, and the `dock` command over them."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.processes import ROOT
from services.terminal.capture import find_ffmpeg
from services.vault.contract import wire
from tests.flows.evidence import Bundle, export
from tests.system import System, events_of, terminal_argv

MIB = 1024 * 1024
MADE = "2026-11-20T01:02:03.000Z"
"""What the movies say of themselves."""
FORMATS = ("mp4", "mov", "avi", "ts", "mkv", "jpg", "png", "wav", "mp3")
_PICTURE = ["-f", "lavfi", "-i", "testsrc=size=160x90:rate=10:duration=1"]
_SOUND = ["-f", "lavfi", "-i", "sine=duration=1"]


def media(folder: Path, kind: str, name: str = "") -> Path:
    """A real file of this kind, under a name that does not say which."""
    made = folder / f"made.{kind}"
    if kind in ("wav", "mp3"):
        options = _SOUND
    elif kind in ("jpg", "png"):
        options = [*_PICTURE, "-frames:v", "1"]
    else:
        options = [*_PICTURE, "-metadata", f"creation_time={MADE}"]
    argv = [find_ffmpeg(None), "-v", "error", "-y", *options, str(made)]
    subprocess.run(argv, check=True, timeout=60)
    return made.rename(folder / (name or f"{kind} 的.DAT"))


def some(path: Path, size: int, seed: int = 1) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


@dataclass(frozen=True)
class Done:
    code: int
    events: list[dict[str, Any]]
    said: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def taken(self) -> dict[str, dict[str, Any]]:
        """By name, what was taken over."""
        return {event["file"]: event for event in self.of("taken-over")}

    def left(self) -> dict[str, str]:
        return {each["file"]: each["why"] for each in self.of("docked")[0]["left"]}


def dock(home: Path, folder: Path, *arguments: str, reason: str = "no-link", timeout: float = 120) -> Done:
    """Run it to its end."""
    argv = terminal_argv("dock", home, str(folder), "--reason", reason, *arguments)
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    return Done(done.returncode, events_of(done.stdout), done.stdout + done.stderr)


def plain(home: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a person sees it."""
    argv = [sys.executable, "-m", "services.terminal", "dock", "--home", str(home), str(folder), *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def as_it_was(folder: Path) -> dict[str, tuple[int, int, str]]:
    """All there is to see of a folder, time of last change included."""
    found = {}
    for path in sorted(folder.rglob("*")):
        seen = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
        found[str(path)] = (seen.st_mtime_ns, seen.st_ctime_ns, digest)
    return found


def assert_sealed(system: System, home: Path, recording: str, file: Path, kind: str) -> dict[str, Any]:
    """What a stranger verifies of its export is this file, and that it was not live; what the terminal signed."""
    bundle = export(system, home, recording)
    verified = bundle.verify()
    assert verified.returncode == 0, verified.stdout
    assert "不是实时上传" in verified.stdout
    sealed = bundle.folder / "data" / f"{recording}.{kind}"
    assert sealed.read_bytes() == file.read_bytes()
    told: dict[str, Any] = bundle.closing()["taken_over"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert bundle.manifest()["whole"] == {"sha256": digest, "size": file.stat().st_size}
    assert (told["sha256"], told["size"], told["format"]) == (digest, file.stat().st_size, kind)
    assert not _names(bundle, file.name), "no name leaves the api's database"
    return told


def _names(bundle: Bundle, name: str) -> bool:
    told = json.dumps(bundle.manifest(), ensure_ascii=False) + json.dumps(bundle.closing(), ensure_ascii=False)
    return name in told


def recordings(system: System) -> dict[str, dict[str, Any]]:
    """The newest, as the supervisor lists them."""
    with system.sign_in("li") as client:
        items = client.get("/v1/recordings", params={"limit": 200}).json()["items"]
    return {item["id"]: item for item in items}


def closing_of(home: Path, recording: str) -> dict[str, Any]:
    told = json.loads((home / "done" / recording / "closing.json").read_bytes())
    return wire.Envelope.model_validate(told).decoded()
