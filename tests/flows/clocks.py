"""A clock that is stepped while the processes that read it run; everybody else's stays true."""

from __future__ import annotations

import time
from pathlib import Path

# A process looks for a new offset once a second, and its answers' `Date` is made anew once a second.
_SEEN_SECONDS = 3.0


class Clock:
    """Of every process that is started with `environment`."""

    def __init__(self, library: Path, folder: Path):
        self._library, self._file = library, folder / "clock"
        self._write(0)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            # A step of the clock moves neither the monotonic clock nor the times of files.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def step(self, hours: float) -> None:
        """So many hours off the true time from now on; everybody has seen it when this returns."""
        self._write(round(hours * 3600))
        time.sleep(_SEEN_SECONDS)

    def _write(self, seconds: int) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}")
        fresh.replace(self._file)
