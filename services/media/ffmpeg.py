"""ffmpeg on what devices sent: it gets nothing else, no setting or secret in its environment, no network, and bounds
on memory and on the size of what it writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

_MEMORY = 2 * 1024**3
DEMUXERS = {
    "mp4": "mp4",
    "ts": "mpegts",
    "mov": "mov",
    "avi": "avi",
    "mkv": "matroska",
    "wav": "wav",
    "mp3": "mp3",
}
"""What ffmpeg reads each format by."""


class NoFfmpeg(Exception):
    """This machine has none."""


@cache
def program() -> str:
    """Raises NoFfmpeg."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise NoFfmpeg from error


@cache
def version() -> str | None:
    """As `ffmpeg 7.0.2`; None where this machine has none."""
    try:
        argv = [program(), "-version"]
    except NoFfmpeg:
        return None
    told = subprocess.run(argv, env={}, capture_output=True, text=True, timeout=20, check=False)
    found = re.match(r"ffmpeg version (\S{1,60})", told.stdout)
    return f"ffmpeg {found[1]}" if found else "ffmpeg"


@asynccontextmanager
async def confined(
    arguments: list[str], *, writes: int = 0, pass_fds: tuple[int, ...] = (), said: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A run of it that reads its standard input, killed at the end if need be. `writes` bounds each file in bytes;
    `said`: what it says can be read. It gives way to everything else. Raises NoFfmpeg."""
    process = await asyncio.create_subprocess_exec(
        program(),
        "-nostdin",
        "-hide_banner",
        "-nostats",
        "-protocol_whitelist",
        "pipe",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE if said else asyncio.subprocess.DEVNULL,
        pass_fds=pass_fds,
        env={},
    )
    try:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (writes, writes))
            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def feed(process: asyncio.subprocess.Process, chunks: AsyncIterator[bytes]) -> None:
    """All of them, unless it wants no more. Raises what the chunks raise."""
    assert process.stdin
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        async for chunk in chunks:
            process.stdin.write(chunk)
            await process.stdin.drain()
    process.stdin.close()
