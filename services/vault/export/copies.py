"""Copies: the sealed media of a recording remuxed into a plain MP4 that any player opens. Never the record itself.

ffmpeg reads what devices sent, so it gets nothing else: no setting or secret of the vault in its environment, no
network, one pipe to read, one file to write, and bounds on memory, time and size.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from shutil import disk_usage

from services.media.program import ffmpeg
from services.vault.contract import wire
from services.vault.stores.staging import MAX_BYTES

_MEMORY = 2 * 1024**3
_SECONDS = 3600.0
_DEMUXERS = {"mp4": "mp4", "ts": "mpegts", "mov": "mov", "avi": "avi", "mkv": "matroska"}
"""What ffmpeg reads each format by that a copy is made of."""
_SPARE = 256 * 1024**2


class NoCopy(Exception):
    """The message says why, in Chinese."""


@cache
def version(program: str) -> str:
    """As `ffmpeg 7.0.2`."""
    told = subprocess.run([program, "-version"], env={}, capture_output=True, text=True, timeout=20, check=False)
    found = re.match(r"ffmpeg version (\S{1,60})", told.stdout)
    return f"ffmpeg {found[1]}" if found else "ffmpeg"


def clear(scratch: Path | None, act: str) -> None:
    """Remove what a killed process left of this export's copies."""
    for left in Path(scratch or tempfile.gettempdir()).glob(f"quancheng-copy-{act}-*"):
        left.unlink(missing_ok=True)


@asynccontextmanager
async def remuxed(
    scratch: Path | None, act: str, kind: wire.Format, chunks: AsyncIterator[bytes], size: int
) -> AsyncIterator[Path]:
    """A scratch file with the copy, removed at the end. `size` is how much there is to read. Raises NoCopy, and
    whatever reading raises."""
    demuxer = _DEMUXERS.get(kind)
    if demuxer is None:
        raise NoCopy(f"{kind} 格式的文件不转封装成副本")
    program = ffmpeg()
    if program is None:
        raise NoCopy("本机没有 ffmpeg")
    folder = Path(scratch or tempfile.gettempdir())
    if size > MAX_BYTES - _SPARE:
        raise NoCopy("原始媒体超过副本的上限 5 GiB")
    # The index is moved to the front in place, so the file needs its own size once.
    if (await asyncio.to_thread(disk_usage, folder)).free < size + 2 * _SPARE:
        raise NoCopy("临时空间不足")
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f"quancheng-copy-{act}-", suffix=".mp4") as file:
        await _remux(program, demuxer, chunks, Path(file.name))
        yield Path(file.name)


async def _remux(program: str, demuxer: str, chunks: AsyncIterator[bytes], target: Path) -> None:
    argv = [program, "-nostdin", "-hide_banner", "-v", "error", "-y"]
    argv += ["-protocol_whitelist", "pipe", "-f", demuxer, "-i", "pipe:0"]
    argv += ["-map", "0:v?", "-map", "0:a?", "-c", "copy"]
    argv += ["-map_metadata", "-1", "-fflags", "+bitexact", "-movflags", "+faststart", "-f", "mp4", str(target)]
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    assert process.stdin
    try:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (MAX_BYTES, MAX_BYTES))
        async with asyncio.timeout(_SECONDS):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                async for chunk in chunks:
                    process.stdin.write(chunk)
                    await process.stdin.drain()
            process.stdin.close()
            code = await process.wait()
    except TimeoutError as error:
        raise NoCopy("转封装超时") from error
    except ProcessLookupError:
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code or not (await asyncio.to_thread(target.stat)).st_size:
        raise NoCopy("ffmpeg 无法转封装这份媒体")
