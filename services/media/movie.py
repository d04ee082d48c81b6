"""What an MP4 or MOV file (ISO/IEC 14496-12) says of itself: when it was made."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

_EPOCH = datetime(1904, 1, 1, tzinfo=UTC)
_MOST_BOXES = 10_000
"""That are stepped over in one file or box; what has more is taken to say nothing."""


def created_at(file: BinaryIO) -> datetime | None:
    """The creation time in `mvhd`, read as UTC as the standard says, though many recorders write their local time;
    None where there is none, or none that a clock can show (0, before 1970). Raises OSError."""
    size = file.seek(0, 2)
    for kind, begin, end in _boxes(file, 0, size):
        if kind == b"moov":
            for inner, start, stop in _boxes(file, begin, end):
                if inner == b"mvhd":
                    return _time(file, start, stop)
            return None
    return None


def _boxes(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and where the content begins and ends; nothing after one that is not whole."""
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8 or at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", head)
        begin = at + 8
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack_from(">Q", head, 8)
            begin = at + 16
        stop = end if size == 0 else at + size
        if not begin <= stop <= end:
            return
        yield kind, begin, stop
        at = stop


def _time(file: BinaryIO, begin: int, end: int) -> datetime | None:
    file.seek(begin)
    data = file.read(min(12, end - begin))
    if len(data) < 12:
        return None
    (seconds,) = struct.unpack_from(">Q" if data[0] == 1 else ">I", data, 4)
    try:
        found = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return None
    return found if 1970 <= found.year <= 2200 else None
