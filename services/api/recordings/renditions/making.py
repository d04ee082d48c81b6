"""How ffmpeg is called for a rendition, and what it says of what it reads.

What it reads comes from devices. So its demuxer is named and not guessed, it may open nothing but its one input, and
it runs as `services.media.ffmpeg` runs it.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from services.api.errors import NotRenderable, RenditionsUnavailable
from services.api.recordings.renditions import limits
from services.media import ffmpeg

_log = logging.getLogger("quancheng.recordings")
_SAID = re.compile(
    r"^  Stream #0:\d+[^\n]*?: (Video|Audio): (\S+)(?: \([^/)\n]*\))?(?: \((\S+) / 0x)?[^\n]*", re.MULTILINE
)
_SIZE = re.compile(r", (\d{2,5})x(\d{2,5})\b")
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", re.MULTILINE)
_KEPT_AS_THEY_ARE = {"aac", "opus"}
_FRAGMENTS = "+frag_custom+frag_discont+empty_moov+default_base_moof"
_SLACK = 0.001


@dataclass(frozen=True)
class Title:
    """What a recording is made of, as ffmpeg names it; `seconds` are 0 where that is not known."""

    video: str | None
    audio: str | None
    seconds: float


@dataclass(frozen=True)
class Input:
    """An address on the loopback, or bytes that it gets by a pipe."""

    format: str
    url: str | None = None
    data: bytes | None = None

    def argv(self, *options: str) -> list[str]:
        bounds = ["-threads", str(limits.THREADS), "-max_pixels", str(limits.READ_PIXELS), "-max_streams", "64"]
        return [*bounds, *options, "-f", ffmpeg.DEMUXERS[self.format], "-i", self.url or "pipe:0"]


async def look(given: Input) -> Title:
    """Raises RenditionsUnavailable, and NotRenderable for what has nothing to show."""
    _, _, said = await _run(["-v", "info"], given.argv(), [], given)
    streams = [found for found in _SAID.finditer(said) if "attached pic" not in found[0]]
    video = next((one for one in streams if one[1] == "Video"), None)
    audio = next((one for one in streams if one[1] == "Audio"), None)
    named = [_codec(one) for one in (video, audio) if one]
    if not named:
        raise NotRenderable("文件中没有能读出的画面和声音")
    if video and (_codec(video) in ("none", "unknown") or not _SIZE.search(video[0])):
        codec = video[3] or _codec(video)
        raise NotRenderable(f"画面编码 {codec}", codec=codec)
    length = _DURATION.search(said)
    seconds = int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else 0.0
    if seconds > limits.LONGEST_SECONDS:
        raise NotRenderable(f"长于 {limits.LONGEST_SECONDS // 3600} 小时", codec=named[0])
    return Title(_codec(video) if video else None, _codec(audio) if audio else None, seconds)


def _codec(found: re.Match[str]) -> str:
    return found[2].rstrip(",")


async def of_file(given: Input, title: Title, number: int) -> bytes:
    """Piece `number` of a file: its own init segment, and fragments at their place in the file."""
    begin = number * limits.PIECE_SECONDS
    lead = limits.TS_LEAD_SECONDS if given.format == "ts" else limits.LEAD_SECONDS
    read = max(0.0, begin - lead)
    end = begin + limits.PIECE_SECONDS
    options = ["-ss", f"{read:.3f}", "-t", f"{end - read + _SLACK:.3f}"]
    made = ["-copyts", "-start_at_zero"]
    if title.video:
        made += _pictures(f"trim=start={begin:.3f}:end={end:.3f},")
    if title.audio:
        # Packets of the time before and after are the neighbours'; the encoder has heard them.
        outside = rf"lt(pts*tb\,{begin - _SLACK:.3f})+gt(pts*tb\,{end - _SLACK:.3f})"
        made += [*_sound(), "-bsf:a", f"noise=drop={outside}"]
    return await _make(given, given.argv(*options), made, title)


async def of_segment(given: Input, title: Title) -> bytes:
    """One sealed segment of a recording that is cut to be played: the same, on the recording's own time line."""
    made = ["-copyts"]
    if title.video:
        made += _pictures("")
    if title.audio:
        made += ["-c:a", "copy"] if title.audio in _KEPT_AS_THEY_ARE else _sound()
        made += ["-bsf:a", "aac_adtstoasc"] if (given.format, title.audio) == ("ts", "aac") else []
    return await _make(given, given.argv(), made, title)


def _pictures(first: str) -> list[str]:
    smaller = f"scale=w='min({limits.WIDEST},iw)':h='min({limits.HIGHEST},ih)'"
    smaller += ":force_original_aspect_ratio=decrease:force_divisible_by=2"
    coded = ["-c:v", "libx264", "-preset", "superfast", "-crf", "23", "-pix_fmt", "yuv420p", "-bf", "0", "-g", "600"]
    return ["-vf", f"{first}{smaller}", *coded, "-threads", str(limits.THREADS)]


def _sound() -> list[str]:
    return ["-af", "aresample=48000:async=1", "-c:a", "aac", "-ac", "2", "-b:a", "128k"]


async def _make(given: Input, reading: list[str], made: list[str], title: Title) -> bytes:
    chosen = (["-map", "0:v:0"] if title.video else []) + (["-map", "0:a:0"] if title.audio else [])
    written = ["-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact"]
    written += ["-video_track_timescale", "90000", "-avoid_negative_ts", "disabled"]
    written += ["-movflags", _FRAGMENTS, "-f", "mp4", "pipe:1"]
    _, out, said = await _run(["-v", "error"], reading, [*chosen, *made, *written], given)
    # What is damaged in part is shown in part.
    if b"moof" not in out:
        codec = title.video or title.audio
        _log.warning("nothing came of %s: %s", codec, said[-300:])
        raise NotRenderable(f"编码 {codec}", codec=codec)
    return out


async def _run(told: list[str], reading: list[str], writing: list[str], given: Input) -> tuple[int, bytes, str]:
    argv = [*told, *reading, *writing]
    bounds = {"memory": limits.MEMORY_BYTES, "output": limits.MADE_BYTES}
    protocols = "pipe" if given.url is None else "http,tcp"
    try:
        return await ffmpeg.run(argv, given=given.data, protocols=protocols, seconds=limits.MADE_SECONDS, **bounds)
    except ffmpeg.NoFfmpeg as error:
        raise RenditionsUnavailable from error
    except ffmpeg.Failed as error:
        raise NotRenderable(str(error)) from error


def parted(made: bytes) -> tuple[bytes, bytes]:
    """The init segment of a piece, and its fragments."""
    at, init, media = 0, [], []
    while at + 8 <= len(made):
        size, kind = int.from_bytes(made[at : at + 4]), made[at + 4 : at + 8]
        if size < 8:
            break
        if kind in (b"ftyp", b"moov"):
            init.append(made[at : at + size])
        elif kind in (b"moof", b"mdat"):
            media.append(made[at : at + size])
        at += size
    return b"".join(init), b"".join(media)
