"""Real fragmented MP4, made by ffmpeg and cut where a recorder cuts it, and files of other formats."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import imageio_ffmpeg


@cache
def fragmented(*, seconds: int) -> list[bytes]:
    """The initial segment, then one segment a second: `moof` with its `mdat`."""
    argv = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi"]
    argv += ["-i", f"testsrc=duration={seconds}:size=160x120:rate=10", "-c:v", "libx264", "-g", "10", "-f", "mp4"]
    argv += ["-movflags", "+frag_keyframe+empty_moov+default_base_moof", "pipe:1"]
    whole = subprocess.run(argv, capture_output=True, timeout=60, check=True).stdout
    boxes, at = [], 0
    while at < len(whole):
        size = int.from_bytes(whole[at : at + 4], "big")
        boxes.append((whole[at + 4 : at + 8], whole[at : at + size]))
        at += size
    cut: list[bytes] = [b""]
    for kind, box in boxes:
        if kind == b"moof":
            cut.append(b"")
        if kind != b"mfra":
            cut[-1] += box
    assert len(cut) == seconds + 1
    return cut


@cache
def whole(kind: str, *options: str, seconds: int = 2) -> bytes:
    """A whole file of another format, as ffmpeg makes it."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"made.{kind}"
        argv = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi"]
        argv += ["-i", f"testsrc=duration={seconds}:size=160x120:rate=10", *options, str(target)]
        subprocess.run(argv, capture_output=True, timeout=60, check=True)
        return target.read_bytes()
