"""When a recording's locks are looked at next, to the second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from services.vault.retention import Defaults, Retention

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2030, 6, 1, tzinfo=UTC)
ROW = {
    "state": "closed",
    "kind": "recording",
    "keep_until": LATER,
    "permanent": False,
    "active_at": NOW,
    "held": False,
}


def following(first: datetime | None, *, asked: bool = False, **fields: Any) -> datetime | None:
    """`asked`: what the objects were just asked for."""
    nobody: Any = None
    keeping = Retention(nobody, nobody, nobody, defaults=Defaults(timedelta(days=184)))
    return keeping._following(SimpleNamespace(**ROW | fields), first, NOW, asked)


@pytest.mark.parametrize(
    ("first", "fields", "expected"),
    [
        (datetime(2027, 1, 1, tzinfo=UTC), {}, datetime(2026, 10, 3, tzinfo=UTC)),
        (datetime(2027, 1, 1, tzinfo=UTC), {"permanent": True}, datetime(2026, 10, 3, tzinfo=UTC)),
        (datetime(2026, 5, 1, 12, tzinfo=UTC), {}, datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (datetime(2026, 2, 1, tzinfo=UTC), {}, datetime(2026, 1, 2, tzinfo=UTC)),
        (None, {}, datetime(2026, 1, 2, tzinfo=UTC)),
        (datetime(2030, 5, 31, tzinfo=UTC), {}, None),
        (datetime(2030, 5, 30, tzinfo=UTC), {}, datetime(2030, 3, 1, tzinfo=UTC)),
        (datetime(2030, 6, 1, tzinfo=UTC), {"state": "open"}, datetime(2030, 3, 3, tzinfo=UTC)),
        (datetime(2030, 6, 1, tzinfo=UTC), {"state": "open", "kind": "series"}, None),
        (datetime(2026, 7, 4, tzinfo=UTC), {"keep_until": None}, None),
        (datetime(2027, 1, 1, tzinfo=UTC), {"held": True}, datetime(2026, 1, 1, 1, tzinfo=UTC)),
        (datetime(2027, 1, 1, tzinfo=UTC), {"state": "disposing"}, None),
    ],
)
def test_locks_are_looked_at_ninety_days_before_the_first_ends_until_they_reach_the_term(
    first: datetime | None, fields: dict[str, Any], expected: datetime | None
) -> None:
    assert following(first, **fields) == expected


def test_what_is_held_is_looked_at_every_thirty_days() -> None:
    assert following(datetime(2027, 1, 1, tzinfo=UTC), asked=True, held=True) == datetime(2026, 1, 31, tzinfo=UTC)
