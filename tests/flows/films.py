"""Files as recorders and phones leave them, uploaded and closed; and what ffmpeg sees in what is played of them."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

from services.terminal.capture import find_ffmpeg
from tests.flows.pushing import Source
from tests.flows.uploading import created, ended
from tests.system import System

HEVC = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error:keyint=40")
CODECS: dict[str, tuple[str, ...]] = {
    "avi": ("-c:v", "mjpeg", "-q:v", "8", "-c:a", "pcm_s16le", "-ar", "44100"),
    "mp4": (*HEVC, "-tag:v", "hvc1", "-c:a", "aac"),
    "mov": ("-c:v", "mpeg4", "-c:a", "pcm_s16be"),
    "mkv": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"),
    "ts": (*HEVC, "-c:a", "mp2"),
}
RATE = 10


@cache
def film(kind: str, seconds: int = 10, size: str = "320x180", codec: tuple[str, ...] = ()) -> bytes:
    """The test picture in its colours, with a tone."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"film.{kind}"
        argv = [find_ffmpeg(None), "-v", "error", "-f", "lavfi", "-i", f"testsrc=size={size}:rate={RATE}"]
        argv += ["-f", "lavfi", "-i", "sine=440:sample_rate=48000", "-t", str(seconds), "-pix_fmt", "yuv420p"]
        subprocess.run([*argv, *(codec or CODECS[kind]), str(made)], check=True, timeout=120)
        return made.read_bytes()


def uploaded(system: System, source: Source, data: bytes) -> str:
    """The id of its closed recording."""
    url = created(source, len(data), data)
    return str(ended(system, url)["id"])


@dataclass(frozen=True)
class Seen:
    """What a decoder makes of a film: pictures, samples of sound a channel, and the mean of its greys."""

    pictures: int
    sound: int
    grey: float
    errors: str


def seen(data: bytes) -> Seen:
    argv = [find_ffmpeg(None), "-hide_banner", "-nostdin", "-v", "error", "-i", "pipe:0"]
    shown = _run([*argv, "-map", "0:v?", "-vf", "scale=8:8,format=gray", "-fps_mode", "passthrough"], data)
    heard = _run([*argv, "-map", "0:a?", "-f", "s16le", "-ac", "1"], data, raw=True)
    pictures = len(shown.stdout) // 64
    grey = sum(shown.stdout) / max(len(shown.stdout), 1)
    return Seen(pictures, len(heard.stdout) // 2, grey, (shown.stderr + heard.stderr).decode())


def _run(argv: list[str], data: bytes, *, raw: bool = False) -> subprocess.CompletedProcess[bytes]:
    out = ["pipe:1"] if raw else ["-f", "rawvideo", "pipe:1"]
    return subprocess.run([*argv, *out], input=data, capture_output=True, timeout=120, check=False)


def pieces(client: httpx.Client, playlist: str) -> tuple[bytes, list[bytes]]:
    """The init segment that a rendition's playlist names, and its pieces in order."""
    answer = client.get(playlist)
    assert answer.status_code == 200, answer.text
    base = httpx.URL(playlist)
    named = re.search(r'#EXT-X-MAP:URI="([^"]+)"', answer.text)
    assert named
    init = client.get(str(base.join(named[1])))
    found = [client.get(str(base.join(name))) for name in re.findall(r"^[^#\n]+$", answer.text, re.MULTILINE)]
    for one in (init, *found):
        assert one.status_code == 200, one.text
    return init.content, [one.content for one in found]
