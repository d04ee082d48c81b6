"""Capture's side of the spool: pieces become segments of a recording, and a full spool is met by policy.

`stop`: recording ends where the first segment finds no room. `skip`: the camera goes on, a segment that finds no
room is not kept, and the next one that does is. A skipped segment takes a sequence like any other, and the closing
declares it missing. The init segment, a few kilobytes without which nothing plays, is kept beyond the limit then.
Either way nothing that waits for its receipt is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from services.media.cut import Cut
from services.terminal.heartbeat import Heartbeat
from services.terminal.progress import Progress
from services.terminal.spool import RecordingSpool, Spool, SpoolFull
from services.terminal.uplink import Uplink

WhenFull = Literal["stop", "skip"]


@dataclass(frozen=True)
class Piece:
    """A cut with its device times."""

    cut: Cut
    started_at: datetime
    monotonic_ms: int


class Keeper:
    """`send` is given each recording that begins. Raises SpoolError and OSError where recording has to stop."""

    def __init__(
        self,
        spool: Spool,
        send: Callable[[RecordingSpool], Uplink],
        progress: Progress,
        heartbeat: Heartbeat,
        *,
        when_full: WhenFull,
    ):
        self._spool, self._send, self._progress, self._heartbeat = spool, send, progress, heartbeat
        self._skips = when_full == "skip"
        self._begun: RecordingSpool | None = None
        self._uplink: Uplink | None = None
        self._init: Piece | None = None
        self._stretch = 0
        """Segments that were skipped one after the other, up to now."""
        self.skipped = 0

    @property
    def recording(self) -> RecordingSpool | None:
        """The one that goes on, once something of it is kept."""
        return self._begun if self._uplink else None

    async def keep(self, piece: Piece) -> None:
        try:
            if piece.cut.media == "init":
                await self.end(interrupted=False)
                self._init = piece
            await self._begin()
            if piece.cut.media != "init":
                await self._append(piece)
        except SpoolFull as full:
            if not self._skips:
                raise
            if piece.cut.media != "init":
                await self._skip(str(full))
        else:
            self._room()

    async def end(self, *, interrupted: bool) -> None:
        """No more of the recording will come."""
        recording, uplink = self._begun, self._uplink
        self._begun = self._uplink = None
        if recording is None or uplink is None:
            return
        try:
            await asyncio.to_thread(recording.end, interrupted=interrupted)
        except OSError as error:
            reason = f"结束标记写不进磁盘（{error.strerror}）。"
            self._progress.tell("error", reason=reason, recording=str(recording.id))
        self._heartbeat.live = None
        uplink.end(interrupted=interrupted)

    async def _begin(self) -> None:
        """A recording is there for others once its init segment is on disk."""
        if self._init is None:
            return
        if self._begun is None:
            self._begun = await asyncio.to_thread(self._spool.begin, self._init.started_at)
        await self._append(self._init, always=self._skips)
        self._init = None
        self._uplink = self._send(self._begun)
        self._heartbeat.live = self._begun.id
        self._heartbeat.now()
        self._progress.tell("recording", recording=str(self._begun.id))

    async def _append(self, piece: Piece, *, always: bool = False) -> None:
        if self._begun is None:
            raise RuntimeError("media before its init segment")
        await asyncio.to_thread(
            self._begun.append,
            piece.cut.data,
            media=piece.cut.media,
            started_at=piece.started_at,
            duration_ms=piece.cut.duration_ms,
            monotonic_ms=piece.monotonic_ms,
            always=always,
        )
        if self._uplink:
            self._uplink.wake()

    async def _skip(self, reason: str) -> None:
        self._stretch += 1
        self.skipped += 1
        if self.recording:
            self.recording.skip()
        if self._stretch > 1:
            return
        about = {"recording": str(self.recording.id)} if self.recording else {}
        self._progress.tell("spool-full", reason=reason, **about)
        self._heartbeat.now()
        if self.recording:
            # A disk that cannot take this can take no closing either, and says so then.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.recording.keep_skipped)

    def _room(self) -> None:
        if not self._stretch:
            return
        skipped, self._stretch = self._stretch, 0
        about = {"recording": str(self.recording.id)} if self.recording else {}
        self._progress.tell("spool-room", skipped=skipped, **about)
        self._heartbeat.now()
