"""What every cutter yields, and how a stream that cannot be cut is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["init", "media"]
MAX_BYTES = 64 * 1024 * 1024
"""The largest segment that the vault takes."""


class CutError(ValueError):
    """The stream does not have the shape a recording has."""


class Feeding:
    """How every cutter is fed: bytes in, whatever they complete out. Where the shape breaks, what was whole before it
    is told first, and CutError raised at the next call; nothing may be fed after."""

    def __init__(self) -> None:
        self._broken: CutError | None = None

    def feed(self, data: bytes) -> list[Cut]:
        """The segments that these bytes complete."""
        self._raise_broken()
        cuts: list[Cut] = []
        try:
            for cut in self._cut(data):
                cuts.append(cut)
        except CutError as error:
            cuts += self._left()
            if not cuts:
                raise
            self._broken = error
        return cuts

    def finish(self) -> list[Cut]:
        """What is whole but not yet cut. What is unfinished at the end is left out."""
        self._raise_broken()
        return list(self._left())

    def _raise_broken(self) -> None:
        error, self._broken = self._broken, None
        if error is not None:
            raise error

    def _cut(self, data: bytes) -> Iterator[Cut]:
        raise NotImplementedError

    def _left(self) -> Iterator[Cut]:
        raise NotImplementedError


@dataclass(frozen=True)
class Cut:
    """One segment's bytes. `media_ms` is where it begins on the stream's own time line."""

    media: Kind
    data: bytes
    duration_ms: int
    media_ms: int
