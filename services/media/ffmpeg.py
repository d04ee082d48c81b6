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
"""What ffmpeg reads each format by. None of them opens anything but what it is given."""
PICTURED = DEMUXERS.keys() - {"wav", "mp3"}
_SAID = 64 * 1024


class Failed(Exception):
    """It was ended at a bound; the message says at which."""


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
    arguments: list[str],
    *,
    protocols: str = "pipe",
    memory: int = _MEMORY,
    writes: int = 0,
    nice: int = 19,
    pass_fds: tuple[int, ...] = (),
    made: bool = False,
    said: bool = False,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A run of it that reads its standard input, or by these `protocols`, killed at the end if need be. `memory` and
    `writes` bound its address space and each file in bytes; `made` and `said`: what it writes, and what it says, can
    be read. Raises NoFfmpeg."""
    process = await asyncio.create_subprocess_exec(
        program(),
        "-nostdin",
        "-hide_banner",
        "-nostats",
        "-protocol_whitelist",
        protocols,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE if made else asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE if said else asyncio.subprocess.DEVNULL,
        pass_fds=pass_fds,
        env={},
        cwd="/",
    )
    try:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (memory, memory))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (writes, writes))
            os.setpriority(os.PRIO_PROCESS, process.pid, nice)
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


async def run(
    arguments: list[str], *, given: bytes | None, protocols: str, seconds: float, memory: int, output: int
) -> tuple[int, bytes, str]:
    """Exit code, what it wrote, and what it said (its last 64 KiB). Raises Failed after `seconds` and past `output`
    bytes, and NoFfmpeg."""
    try:
        async with (
            asyncio.timeout(seconds),
            confined(arguments, protocols=protocols, memory=memory, nice=15, made=True, said=True) as process,
        ):
            assert process.stdout and process.stderr
            async with asyncio.TaskGroup() as group:
                wrote = group.create_task(_read(process.stdout, output))
                told = group.create_task(_last(process.stderr))
                await feed(process, _once(given))
            return await process.wait(), wrote.result(), told.result()
    except TimeoutError as error:
        raise Failed("it took too long") from error
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None


async def _once(data: bytes | None) -> AsyncIterator[bytes]:
    if data:
        yield data


async def _read(stream: asyncio.StreamReader, limit: int) -> bytes:
    parts, size = [], 0
    while part := await stream.read(256 * 1024):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise Failed("more output than is taken")
    return b"".join(parts)


async def _last(stream: asyncio.StreamReader) -> str:
    told = b""
    while part := await stream.read(_SAID):
        told = (told + part)[-_SAID:]
    return told.decode(errors="replace")
