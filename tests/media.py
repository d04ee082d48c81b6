"""Recordings of which is known what they show and tell: real ones, by ffmpeg."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from services.media import ffmpeg

PLAIN = "plain"
_RATE = "s=320x180:r=10"
_NOISE = "noise=alls=8:allf=t"
_PICTURES = {
    PLAIN: f"testsrc2={_RATE},{_NOISE}",
    "black": f"color=black:{_RATE}",
    "frozen": f"testsrc2={_RATE},loop=loop=-1:size=1:start=0",
    "covered": f"color=0x402820:{_RATE},noise=alls=10:allf=t",
}


@dataclass(frozen=True)
class Scene:
    shows: str
    seconds: int


def made(file: Path, *scenes: Scene, silent: tuple[float, float]) -> Path:
    """These scenes one after the other, a key frame every second, with a tone that is `silent` from then to then."""
    argv = [ffmpeg.program(), "-v", "error", "-y"]
    for scene in scenes:
        argv += ["-f", "lavfi", "-t", str(scene.seconds), "-i", _PICTURES[scene.shows]]
    length = sum(scene.seconds for scene in scenes)
    tone = f"sine=sample_rate=48000:d={length},volume=0:enable='between(t,{silent[0]},{silent[1]})'"
    argv += ["-f", "lavfi", "-i", tone]
    joined = "".join(f"[{place}:v]" for place in range(len(scenes)))
    argv += ["-filter_complex", f"{joined}concat=n={len(scenes)},format=yuv420p[v]"]
    argv += ["-map", "[v]", "-map", f"{len(scenes)}:a", "-c:v", "libx264", "-preset", "ultrafast", "-g", "10"]
    argv += ["-c:a", "aac"]
    if file.suffix == ".mp4":
        argv += ["-movflags", "+frag_keyframe+empty_moov+default_base_moof"]
    subprocess.run([*argv, str(file)], check=True)
    return file
