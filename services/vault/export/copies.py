"""Copies: the sealed media of a recording remuxed into a plain MP4 that any player opens. Never the record itself.

ffmpeg gets one pipe to read and one file to write (`services.media.ffmpeg`), and bounds on time and size.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import disk_usage

from services.media import ffmpeg
from services.vault.contract import wire
from services.vault.stores.staging import MAX_BYTES

_SECONDS = 3600.0
_COPIED = ("mp4", "ts", "mov", "avi", "mkv")
_SPARE = 256 * 1024**2


class NoCopy(Exception):
    """The message says why, in Chinese."""


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
    if kind not in _COPIED:
        raise NoCopy(f"{kind} 格式的文件不转封装成副本")
    folder = Path(scratch or tempfile.gettempdir())
    if size > MAX_BYTES - _SPARE:
        raise NoCopy("原始媒体超过副本的上限 5 GiB")
    # The index is moved to the front in place, so the file needs its own size once.
    if (await asyncio.to_thread(disk_usage, folder)).free < size + 2 * _SPARE:
        raise NoCopy("临时空间不足")
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f"quancheng-copy-{act}-", suffix=".mp4") as file:
        await _remux(ffmpeg.DEMUXERS[kind], chunks, Path(file.name))
        yield Path(file.name)


async def _remux(demuxer: str, chunks: AsyncIterator[bytes], target: Path) -> None:
    argv = ["-v", "error", "-y", "-f", demuxer, "-i", "pipe:0", "-map", "0:v?", "-map", "0:a?", "-c", "copy"]
    argv += ["-map_metadata", "-1", "-fflags", "+bitexact", "-movflags", "+faststart", "-f", "mp4", str(target)]
    try:
        async with asyncio.timeout(_SECONDS), ffmpeg.confined(argv, writes=MAX_BYTES) as process:
            await ffmpeg.feed(process, chunks)
            code = await process.wait()
    except TimeoutError as error:
        raise NoCopy("转封装超时") from error
    except ffmpeg.NoFfmpeg as error:
        raise NoCopy("本机没有 ffmpeg") from error
    if code or not (await asyncio.to_thread(target.stat)).st_size:
        raise NoCopy("ffmpeg 无法转封装这份媒体")
