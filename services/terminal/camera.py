"""What is recorded, as one stream of pieces: a source that ends or falls silent is begun again in the same recording.

The gap is seen in the device times, and the media's own time line has it too, so that what is played end to end
never runs backwards. Where the source comes back as another (another size of picture, another codec) its init segment
is another, and with that a new recording begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.media.clock import Clock
from services.media.cut import Cut, CutError
from services.media.fmp4 import Cutter
from services.terminal.capture import Capture, CaptureFailed, NoFfmpeg, arguments
from services.terminal.heartbeat import Heartbeat
from services.terminal.keeping import Piece
from services.terminal.progress import Progress

_FIRST_SEGMENT_SECONDS = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
_TOO_SHORT_SECONDS = 1.0
"""Not worth a new beginning."""


@dataclass(frozen=True)
class Source:
    """What to record, and for how long (None: until stopped). `segment_seconds` None follows the server, and
    `restart` None is yes for whatever is no file."""

    ffmpeg: str
    spec: str
    seconds: float | None
    segment_seconds: int | None
    copy: bool
    restart: bool | None = None

    @property
    def restarts(self) -> bool:
        return not Path(self.spec).is_file() if self.restart is None else self.restart


class Camera:
    def __init__(self, source: Source, progress: Progress, heartbeat: Heartbeat):
        self._source, self._progress, self._heartbeat = source, progress, heartbeat
        self._first = arguments(source.spec, seconds=source.seconds, copy=source.copy)
        self._target = source.segment_seconds or _FIRST_SEGMENT_SECONDS
        self._cutter: Cutter | None = None
        self._capture: Capture | None = None
        self._stopping = asyncio.Event()
        self._init: bytes | None = None
        self._end, self._ended_at = 0.0, time.monotonic()
        """Where the time line has come to, in seconds, and when."""
        self._pictures = self._lost = False

    def follow(self, seconds: int) -> None:
        """How long the server would have segments be."""
        if self._source.segment_seconds is None:
            self._target = seconds
            if self._cutter:
                self._cutter.target_seconds = seconds

    async def stop(self) -> None:
        self._stopping.set()
        if self._capture:
            await self._capture.stop()

    def kill(self) -> None:
        if self._capture:
            self._capture.kill()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Until it is stopped, or the source ends that is not begun again. Raises CaptureFailed."""
        pause = _FIRST_PAUSE
        command: list[str] = self._first
        while True:
            self._pictures = False
            failed: CaptureFailed | None = None
            try:
                async with contextlib.aclosing(self._run(command)) as pieces:
                    async for piece in pieces:
                        yield piece
            except CaptureFailed as error:
                failed = error
            self._heartbeat.capturing = False
            if self._over(failed):
                return
            pause = _FIRST_PAUSE if self._pictures else min(2 * pause, _LONGEST_PAUSE)
            reason = failed.said if failed and failed.said else "画面来源已结束"
            self._lost = True
            self._progress.tell("capture-lost", reason=reason, seconds=pause)
            self._heartbeat.now()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            if self._over(None):
                return
            command = self._again()

    def _over(self, failed: CaptureFailed | None) -> bool:
        """Whether that was all. Raises CaptureFailed where it should not have been."""
        left = self._left()
        if self._stopping.is_set() or (failed is None and left is not None and left < _TOO_SHORT_SECONDS):
            return True
        if self._source.restarts and self._init is not None:
            return left is not None and left < _TOO_SHORT_SECONDS
        if failed:
            raise failed
        return True

    def _left(self) -> float | None:
        seconds = self._source.seconds
        return None if seconds is None else seconds - self._now()

    def _now(self) -> float:
        """The time line goes on while nothing is recorded."""
        return self._end + time.monotonic() - self._ended_at

    def _again(self) -> list[str]:
        return arguments(self._source.spec, seconds=self._left(), copy=self._source.copy, at=self._now())

    async def _run(self, command: list[str]) -> AsyncGenerator[Piece, None]:
        """One run of ffmpeg, whatever ends it."""
        clock = Clock()
        cutter = self._cutter = Cutter(target_seconds=self._target, whole_gops=True)
        capture = self._capture = await self._start(command)
        if self._stopping.is_set():
            capture.kill()
        failed: CaptureFailed | None = None
        try:
            try:
                async for chunk in capture.chunks():
                    for piece in self._pieces(clock, cutter.feed(chunk)):
                        yield piece
            except CaptureFailed as error:
                failed = error
            except CutError as error:
                failed = CaptureFailed(0, str(error))
            for piece in self._pieces(clock, cutter.finish()):
                yield piece
        finally:
            await capture.end()
        if failed:
            raise failed

    async def _start(self, command: list[str]) -> Capture:
        try:
            return await Capture.start(self._source.ffmpeg, command, copy=self._source.copy)
        except NoFfmpeg as error:
            if self._init is None:
                raise
            # It did start before: a machine short of memory or processes may let it do so again.
            raise CaptureFailed(0, str(error)) from error

    def _pieces(self, clock: Clock, cuts: Iterator[Cut]) -> Iterator[Piece]:
        for cut in cuts:
            if cut.media == "init":
                if cut.data == self._init:
                    continue
                self._init = cut.data
            else:
                self._end, self._ended_at = (cut.media_ms + cut.duration_ms) / 1000, time.monotonic()
                self._come()
            yield Piece(cut, *clock.times(cut))

    def _come(self) -> None:
        if self._pictures:
            return
        self._pictures = self._heartbeat.capturing = True
        self._heartbeat.now()
        if self._lost:
            self._lost = False
            self._progress.tell("capture-back")
