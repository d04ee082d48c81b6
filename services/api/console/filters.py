"""How values read on a page. Pure functions, registered as Jinja filters under their own names.

{{ segment.sealed_at | shanghai }}   2026-11-23 17:34:40
{{ row.bytes | size }}               12.4 MB
{{ row.seconds | duration }}         3 分 07 秒
{{ segment.sha256 | short }}         9f86d081
"""

from __future__ import annotations

from datetime import datetime

from services.api.moments import SHANGHAI

ABSENT = "—"
_UNITS = ("kB", "MB", "GB", "TB", "PB")


def shanghai(moment: datetime | str | None) -> str:
    """A time as the wall clock in Asia/Shanghai shows it, to the second; a dash for None.

    Takes an aware datetime or, as receipts carry it, RFC 3339 text. Raises ValueError for text that is no
    time and for a time without a zone: guessing the zone would put a false time on evidence.
    """
    if moment is None:
        return ABSENT
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be shown")
    return moment.astimezone(SHANGHAI).strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Bytes in decimal units (1 kB = 1000 B) with three digits or more, rounded to the nearest.

    Raises ValueError for a negative count.
    """
    if count < 0:
        raise ValueError("a size cannot be negative")
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
        if round(value) < 1000 or unit == _UNITS[-1]:
            return f"{value:.{digits}f} {unit}"
    raise AssertionError("unreachable: the last unit always returns")


def duration(seconds: float) -> str:
    """A length of time in Chinese: tenths below ten seconds, whole seconds from there on.

    Cuts off rather than rounds up, so that a page never claims more than was recorded.
    Raises ValueError for a negative length.
    """
    milliseconds = round(seconds * 1000)
    if milliseconds < 0:
        raise ValueError("a duration cannot be negative")
    whole = milliseconds // 1000
    if whole < 10:
        return f"{whole}.{milliseconds % 1000 // 100} 秒"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} 小时 {minutes:02d} 分 {rest:02d} 秒"
    if minutes:
        return f"{minutes} 分 {rest:02d} 秒"
    return f"{rest} 秒"


def short(digest: str) -> str:
    """The first 8 characters of a digest: enough to compare by eye, never enough to verify."""
    return digest[:8]
