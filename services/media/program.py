"""ffmpeg as a service runs it on what devices sent: with nothing of the service's own, and within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from functools import cache

DEMUXERS = {"mp4": "mov", "mov": "mov", "ts": "mpegts", "avi": "avi", "mkv": "matroska"}
"""What reads each format that has moving pictures. None of them opens anything but what it is given."""


class Failed(Exception):
    """It ended with an error, or was ended at a bound; the message is the last that it wrote."""


@cache
def ffmpeg() -> str | None:
    """The program, or None where the machine has none."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


async def run(
    argv: list[str], *, given: bytes | None = None, seconds: float, memory: int, output: int, nice: int = 15
) -> tuple[int, bytes, str]:
    """Exit code, what it wrote, and what it said (its last 64 KiB). It has an empty environment, at most `memory`
    bytes of address space, writes no file, and is killed after `seconds`, past `output` bytes, or when whoever waits
    is cancelled. Raises Failed at a bound."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={},
        cwd="/",
    )
    assert process.stdout and process.stderr
    try:
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, nice)
            resource.prlimit(process.pid, resource.RLIMIT_AS, (memory, memory))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            wrote = group.create_task(_read(process.stdout, output, "more output than is taken"))
            said = group.create_task(_last(process.stderr))
            if given is not None:
                group.create_task(_give(process.stdin, given))
        return await process.wait(), wrote.result(), said.result()
    except TimeoutError as error:
        raise Failed("it took too long") from error
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _read(stream: asyncio.StreamReader, limit: int, words: str) -> bytes:
    parts, size = [], 0
    while part := await stream.read(256 * 1024):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise Failed(words)
    return b"".join(parts)


async def _last(stream: asyncio.StreamReader) -> str:
    told = b""
    while part := await stream.read(64 * 1024):
        told = (told + part)[-64 * 1024 :]
    return told.decode(errors="replace")


async def _give(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    assert stream
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
    stream.close()
