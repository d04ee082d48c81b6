"""When a cut's first picture was taken, told by whoever receives it in real time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from services.media.cut import Cut

_STALL_SECONDS = 2.0


class Clock:
    """Puts cuts on the device's clocks.

    A fragment arrives when its last picture is done, so its first was taken its duration earlier. The media's
    own time line carries from cut to cut without the pipe's jitter, and is moved where it fell behind. The
    wall clock is read anew each time and never smoothed: if somebody sets it, the segments show it.
    """

    def __init__(self) -> None:
        self._anchor: float | None = None
        self._last = 0.0

    def times(self, cut: Cut) -> tuple[datetime, int]:
        """(device time, monotonic milliseconds) of the cut's first picture; call as it arrives."""
        return self._times(cut, time.monotonic(), datetime.now(UTC))

    def _times(self, cut: Cut, monotonic: float, wall: datetime) -> tuple[datetime, int]:
        if cut.media == "init":
            first = monotonic
        else:
            anchor = monotonic - (cut.media_ms + cut.duration_ms) / 1000
            if self._anchor is None or anchor < self._anchor or anchor > self._anchor + _STALL_SECONDS:
                self._anchor = anchor
            first = max(self._anchor + cut.media_ms / 1000, self._last)
            self._last = first
        return wall - timedelta(seconds=monotonic - first), round(first * 1000)
