"""Stretches of a recording that show or tell nothing: black, covered, without change, silent.

ffmpeg's own detectors find them (`blackdetect`, `freezedetect`, `silencedetect`; a picture of one tone by
`signalstats`). Pictures are looked at from key frame to key frame, and a stretch lasts from the first that shows
nothing to the last; sound is heard whole. They are suspicions: what a stretch means is for people to say.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import IO, Literal

from services.media import ffmpeg

Kind = Literal["black", "covered", "frozen", "silent", "no-picture", "no-sound"]
SHORTEST = 10.0
"""Seconds from which a stretch is one."""
_BLACK = 0.98, 0.10
"""So much of a picture is darker than so much of the range."""
_ONE_TONE = 24
"""The luma of a covered lens, of 256 steps, spreads no wider between its 10th and 90th percentile."""
_BLACK_LUMA = 16 + 22
_FROZEN = 0.001
"""Mean difference of two pictures, of 1, that a camera's noise alone exceeds."""
_SILENT_DB = -60
_APART = 10.0
"""Seconds between two pictures that were looked at, over which nothing is said of what lies between."""
_SECONDS = 3600.0
_LINE = 64 * 1024
_SAID = 64 * 1024


class Unreadable(Exception):
    """ffmpeg can make nothing of it."""


@dataclass(frozen=True)
class Stretch:
    """Seconds from the beginning of what was looked at."""

    kind: Kind
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Looked:
    """`pictures` and `sound`: whether there were any at all; `seconds`: how long it is."""

    stretches: list[Stretch]
    seconds: float
    pictures: bool
    sound: bool


async def look(format_: str, opened: Callable[[], AsyncIterator[bytes]], seconds: float | None) -> Looked:
    """What is found in one run of media, which is so long by its segments, or as long as ffmpeg finds it. `opened`
    reads it from the beginning. Raises Unreadable, NoFfmpeg, and whatever reading raises."""
    try:
        ran = await _run(format_, opened(), pictures=True)
        if ran.code and ran.tracks == {"Audio"}:
            # It refuses to be told how to look at pictures where there are none.
            ran = await _run(format_, opened(), pictures=False)
    except TimeoutError as error:
        raise Unreadable("it takes too long") from error
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    if ran.code or not ran.tracks:
        raise Unreadable(f"ffmpeg ended with {ran.code}")
    begins = min((notes.first for notes in (ran.seen, ran.heard) if notes.first is not None), default=0.0)
    length = ran.seconds if seconds is None else seconds
    found = [*ran.seen.stretches(begins, length), *ran.heard.stretches(begins, length)]
    return Looked(found, length, "Video" in ran.tracks, "Audio" in ran.tracks)


def settled(found: Iterable[Stretch]) -> list[Stretch]:
    """Those of one kind that follow one another are one, what is black or covered is not called without change too,
    and the short ones are left out."""
    by_kind: dict[Kind, list[Stretch]] = {}
    for stretch in sorted(found, key=lambda one: one.start):
        same = by_kind.setdefault(stretch.kind, [])
        if same and stretch.start <= same[-1].end:
            same[-1] = Stretch(stretch.kind, same[-1].start, max(same[-1].end, stretch.end))
        else:
            same.append(stretch)
    dark = [*by_kind.get("black", []), *by_kind.get("covered", [])]
    by_kind["frozen"] = [part for one in by_kind.get("frozen", []) for part in _without(one, dark)]
    kept = [one for same in by_kind.values() for one in same if one.seconds >= SHORTEST]
    return sorted(kept, key=lambda one: (one.start, one.kind))


def _without(stretch: Stretch, others: Iterable[Stretch]) -> list[Stretch]:
    parts = [stretch]
    for other in others:
        split = [((part.start, min(part.end, other.start)), (max(part.start, other.end), part.end)) for part in parts]
        parts = [Stretch(stretch.kind, start, end) for pair in split for start, end in pair if start < end]
    return parts


@dataclass
class Notes:
    """What the detectors say of one track, line by line. Of pictures it is known what they showed from one that was
    looked at to the next, where that is not too far."""

    first: float | None = None
    _before: float = 0.0
    _at: float = 0.0
    _low: float = 0.0
    _begun: dict[Kind, float] = field(default_factory=dict)
    _found: list[Stretch] = field(default_factory=list)

    def take(self, line: str) -> None:
        if at := re.search(r"pts_time:(-?[\d.]+)", line):
            self._next(float(at[1]))
            return
        name, _, value = line.partition("=")
        match name.removeprefix("lavfi."):
            case "black_start":
                self._begun.setdefault("black", float(value))
            case "black_end":
                self._end("black", self._before)
            case "freezedetect.freeze_start":
                self._begun.setdefault("frozen", float(value))
            case "freezedetect.freeze_end":
                self._end("frozen", self._before)
            case "silence_start":
                self._begun.setdefault("silent", float(value))
            case "silence_end":
                self._end("silent", float(value))
            case "signalstats.YLOW":
                self._low = float(value)
            case "signalstats.YHIGH":
                if float(value) - self._low <= _ONE_TONE and float(value) > _BLACK_LUMA:
                    self._begun.setdefault("covered", self._at)
                else:
                    self._end("covered", self._before)

    def stretches(self, begins: float, seconds: float) -> list[Stretch]:
        """What has not ended lasts to the last picture, or for as long as there is sound."""
        for kind in list(self._begun):
            self._end(kind, begins + seconds if kind == "silent" else self._at)
        moved = [(one.kind, max(0.0, one.start - begins), min(seconds, one.end - begins)) for one in self._found]
        return [Stretch(kind, start, end) for kind, start, end in moved if start < end]

    def _next(self, at: float) -> None:
        if self.first is None:
            self.first = self._at = at
        self._before, self._at = self._at, at
        if at - self._before > _APART:
            for kind in [kind for kind in self._begun if kind != "silent"]:
                self._end(kind, self._before)
                self._begun[kind] = at

    def _end(self, kind: Kind, at: float) -> None:
        if (start := self._begun.pop(kind, None)) is not None and start < at:
            self._found.append(Stretch(kind, start, at))


@dataclass
class _Ran:
    code: int = 0
    said: bytes = b""
    last: bytes = b""
    seen: Notes = field(default_factory=Notes)
    heard: Notes = field(default_factory=Notes)

    @property
    def tracks(self) -> set[str]:
        return {found.decode() for found in re.findall(rb"Stream #0:\d+\S*: (Video|Audio):", self.said)}

    @property
    def seconds(self) -> float:
        ends = re.findall(rb"time=(\d+):(\d+):([\d.]+)", self.last)
        return sum(float(part) * unit for part, unit in zip(ends[-1], (3600, 60, 1), strict=True)) if ends else 0.0


async def _run(format_: str, chunks: AsyncIterator[bytes], *, pictures: bool) -> _Ran:
    ran = _Ran()
    # Pipes of our own: where a child's standard output is a socket, it cannot be opened by its name.
    (sees, shows), (hears, tells) = os.pipe(), os.pipe()
    with ExitStack() as ends:
        theirs = [ends.enter_context(os.fdopen(end, "wb")) for end in (shows, tells)]
        ours = [ends.enter_context(os.fdopen(end, "rb")) for end in (sees, hears)]
        argv = _arguments(format_, shows if pictures else None, tells)
        async with asyncio.timeout(_SECONDS), ffmpeg.confined(argv, pass_fds=(shows, tells), said=True) as process:
            for end in theirs:
                end.close()
            assert process.stderr
            async with asyncio.TaskGroup() as reading:
                reading.create_task(_note(ours[0], ran.seen))
                reading.create_task(_note(ours[1], ran.heard))
                reading.create_task(_hear(process.stderr, ran))
                await ffmpeg.feed(process, chunks)
            ran.code = await process.wait()
    return ran


def _arguments(format_: str, shows: int | None, tells: int) -> list[str]:
    argv = ["-v", "info", "-threads", "1", "-f", ffmpeg.DEMUXERS[format_], "-i", "pipe:0"]
    if shows is not None:
        part, dark = _BLACK
        argv[2:2] = ["-skip_frame:v", "nokey"]
        pictures = (
            f"scale=320:-2:flags=fast_bilinear,blackdetect=d=0.1:pic_th={part}:pix_th={dark},"
            f"freezedetect=n={_FROZEN}:d=0.1,signalstats,metadata=mode=print:file=/dev/fd/{shows}:direct=1"
        )
        argv += ["-map", "0:v:0?", "-vf", pictures]
    sound = f"silencedetect=n={_SILENT_DB}dB:d=1,ametadata=mode=print:file=/dev/fd/{tells}:direct=1"
    return [*argv, "-map", "0:a:0?", "-af", sound, "-f", "null", "-"]


async def _note(pipe: IO[bytes], notes: Notes) -> None:
    reader = asyncio.StreamReader(limit=_LINE)
    reading = asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    transport, _ = await reading
    try:
        while line := await reader.readline():
            with suppress(ValueError):
                notes.take(line.decode(errors="replace").strip())
    finally:
        transport.close()


async def _hear(stream: asyncio.StreamReader, ran: _Ran) -> None:
    """It names its tracks first, and last how long they were."""
    while chunk := await stream.read(_LINE):
        ran.said += chunk[: _SAID - len(ran.said)]
        ran.last = (ran.last + chunk)[-_LINE:]
