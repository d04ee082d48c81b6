"""Clients of the resumable door: one that speaks tus by hand, and files to upload."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from services.terminal.capture import find_ffmpeg
from services.vault.contract import wire
from tests.flows.evidence import eventually
from tests.flows.pushing import Source, exported
from tests.system import System

MIB = 1024 * 1024
TUS = {"tus-resumable": "1.0.0"}
PIECE = TUS | {"content-type": "application/offset+octet-stream"}


def some(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def call(method: str, url: str, headers: dict[str, str] | None = None, content: Any = b"") -> httpx.Response:
    """With nothing but what is said here."""
    return httpx.request(method, url, headers=headers, content=content, timeout=60, trust_env=False)


def created(source: Source, length: int | None, data: bytes = b"", **more: str) -> str:
    said = {"upload-defer-length": "1"} if length is None else {"upload-length": str(length)}
    headers = (PIECE if data else TUS) | said | {name.replace("_", "-"): value for name, value in more.items()}
    answer = call("POST", source.uploads, headers, data)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def patched(url: str, offset: int, data: bytes | Iterable[bytes], **more: str) -> httpx.Response:
    said = {"upload-offset": str(offset)} | {name.replace("_", "-"): value for name, value in more.items()}
    return call("PATCH", url, PIECE | said, data)


def offset_of(url: str) -> int:
    answer = call("HEAD", url, TUS)
    assert answer.status_code == 200, answer.status_code
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def checksum(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def row(system: System, url: str) -> dict[str, Any]:
    """The upload's row."""
    told = system.stack.postgres.run_sql(
        f"SELECT row_to_json(u) FROM api.uploads u WHERE id = '{url.rpartition('/')[2]}'"
    )
    found: dict[str, Any] = json.loads(told)
    return found


def ended(system: System, url: str) -> dict[str, Any]:
    """The upload's row, once everything has been done that follows its end."""

    def look() -> dict[str, Any] | None:
        found = row(system, url)
        return found if found["closed"] else None

    return eventually(look, "the upload is closed", 60)


def manifest(system: System, recording: str) -> dict[str, Any]:
    told = system.stack.postgres.run_sql(
        f"SELECT convert_from(envelope, 'UTF8') FROM vault.manifests WHERE recording_id = '{recording}'"
    )
    return wire.Envelope.model_validate_json(told.strip()).decoded()


def assert_sealed_whole(system: System, url: str, data: bytes, extension: str = "bin") -> dict[str, Any]:
    """It is closed, and what a stranger verifies of its export is this file; its manifest."""
    upload = ended(system, url)
    digest = hashlib.sha256(data).hexdigest()
    assert (upload["state"], upload["length"], upload["whole_sha256"]) == ("complete", len(data), digest)
    told = manifest(system, upload["id"])
    assert (told["reason"], told["whole"]) == ("complete", {"sha256": digest, "size": len(data)})
    sizes = [segment["size"] for segment in told["segments"]]
    assert all(size == 8 * MIB for size in sizes[:-1])
    media = exported(system, upload["id"])
    assert media.suffix == f".{extension}"
    assert hashlib.sha256(media.read_bytes()).hexdigest() == digest
    return told


def movie(folder: Path, seconds: int = 2) -> Path:
    """As a camera's card has it."""
    made = folder / "movie.mp4"
    argv = [find_ffmpeg(None), "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc=size=320x180:rate=10", "-t"]
    argv += [str(seconds), "-c:v", "libx264", "-preset", "ultrafast", str(made)]
    subprocess.run(argv, check=True, timeout=60)
    return made
