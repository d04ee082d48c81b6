"""Whether a recording's segments arrive, and what its terminal holds of it meanwhile. Pure: rows and a time in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from services.api.recorders.models import Heartbeat
from services.api.recordings.models import Held, Recording
from services.api.recordings.views import HeldView, Presence

HEARD_WITHIN = timedelta(seconds=10)
ARRIVES_WITHIN = timedelta(seconds=8)
"""With the console's look every two seconds, a person knows of a silence within ten."""
LONGEST_SEGMENT = timedelta(seconds=15)
"""A terminal with nothing to send may be in the middle of a segment of ten seconds."""
CLOCK_LIMIT_MS = 30_000


@dataclass(frozen=True)
class Seen:
    recording: Recording
    held: Held | None
    heartbeat: Heartbeat | None
    now: datetime

    def presence(self) -> Presence:
        if self.recording.state != "open":
            return "closed"
        last = self.recording.last_segment_at
        arrived = self.now - last if last is not None else timedelta.max
        if self._heard() and self.held:
            arriving = arrived < (ARRIVES_WITHIN if self.held.pending else LONGEST_SEGMENT)
            if self.held.live:
                return "live" if arriving else "silent"
            return "catching-up" if arriving else "waiting"
        if (told := self._told()) and told.state == "stopped":
            return "stopped"
        if arrived < HEARD_WITHIN:
            return "live"
        return "lost" if self.recording.door == "direct" else "silent"

    def held_view(self) -> HeldView | None:
        """None of a closed recording that its terminal speaks of no more: it has finished with it."""
        if self.held is None or (self.recording.state != "open" and self._lasting() is None):
            return None
        return HeldView(
            told_at=self.held.told_at,
            recorded=self.held.next_sequence,
            segments=self.held.pending,
            seconds=self.held.pending_ms / 1000,
            bytes=self.held.pending_bytes,
            oldest_at=self.held.oldest_at,
            skipped=self.held.skipped,
            capturing=(heard := self._heard()) is not None and heard.capturing,
        )

    def spool_full(self) -> bool:
        told = self._lasting()
        return told is not None and told.spool_full

    def clock_offset_ms(self) -> int | None:
        told = self._lasting()
        return told.clock_offset_ms if told and abs(told.clock_offset_ms) > CLOCK_LIMIT_MS else None

    def _told(self) -> Heartbeat | None:
        """Its terminal's newest heartbeat, where that names it."""
        if self.held is None or self.heartbeat is None or self.held.told_at != self.heartbeat.received_at:
            return None
        return self.heartbeat

    def _heard(self) -> Heartbeat | None:
        """The same, where it is fresh and not the last before a stop."""
        told = self._told()
        going = told is not None and told.state != "stopped" and self.now - told.received_at < HEARD_WITHIN
        return told if going else None

    def _lasting(self) -> Heartbeat | None:
        """What was told last holds for as long as the terminal is there, or where it has stopped."""
        told = self._told()
        return told if told is not None and told.state == "stopped" else self._heard()
