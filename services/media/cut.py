"""What every cutter yields, and how a stream that cannot be cut is told.

A cutter is fed bytes and tells, one after the other, the segments that they complete; where the shape breaks it
raises CutError after those that were whole before, and nothing may be fed any more. `finish` tells what is whole and
was not cut yet, after a break too; what is unfinished at the end is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["init", "media"]
MAX_BYTES = 64 * 1024 * 1024
"""The largest segment that the vault takes."""


class CutError(ValueError):
    """The stream does not have the shape a recording has."""


@dataclass(frozen=True)
class Cut:
    """One segment's bytes. `media_ms` is where it begins on the stream's own time line."""

    media: Kind
    data: bytes
    duration_ms: int
    media_ms: int
