"""What every cutter yields, and how a stream that cannot be cut is told."""

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
