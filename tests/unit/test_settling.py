"""Which digests a closing settles on where several lie under one sequence, and how many of them can be tried."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from services.terminal.closing import root_of
from services.vault import errors
from services.vault.settling import Closing, settle


def row(sequence: int, digest: int) -> Any:
    return SimpleNamespace(sequence=sequence, sha256=f"{digest:064x}", size=1)


def closing(rows: list[Any]) -> Closing:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    root = root_of((each.sequence, each.sha256, each.size) for each in rows)
    told = {"recording": UUID(int=1), "count": len(rows), "root": root, "missing": [], "interrupted": False}
    return Closing.model_validate(told | {"started_at": now, "ended_at": now})


@pytest.mark.parametrize(
    ("segments", "conflicts", "decided"),
    [(6, 6, True), (7, 7, False), (15_625, 6, True), (15_626, 6, False), (31_250, 5, True), (31_251, 5, False)],
)
def test_the_last_combination_is_found_within_the_bound_and_named_beyond_it(
    segments: int, conflicts: int, *, decided: bool
) -> None:
    first, last = [row(n, 1) for n in range(segments)], [row(n, 2) for n in range(conflicts)]
    spoken = closing([*last, *first[conflicts:]])
    if decided:
        chosen, beside = settle(spoken, spoken.expected(), [*first, *last])
        assert (chosen, beside) == ([*last, *first[conflicts:]], first[:conflicts])
        return
    with pytest.raises(errors.ConflictsUndecided) as refused:
        settle(spoken, spoken.expected(), [*first, *last])
    assert refused.value.extra["conflicting"] == [{"sequence": n} for n in range(conflicts)]


def test_a_root_that_no_combination_has_is_a_bad_closing() -> None:
    rows = [row(n, digest) for digest in (1, 2) for n in range(6)]
    spoken = closing([row(n, 3) for n in range(6)])
    with pytest.raises(errors.BadClosing):
        settle(spoken, spoken.expected(), rows)
