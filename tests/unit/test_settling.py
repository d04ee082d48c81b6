"""Which digests a closing settles on where several lie under one sequence, and how many of them can be tried."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from services.terminal.closing import root_of
from services.vault import errors
from services.vault.contract import wire
from services.vault.settling import Closing, settle, whole_of


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


TAKEN = {
    "sha256": f"{7:064x}",
    "size": 2,
    "format": "avi",
    "reason": "no-link",
    "at": datetime(2026, 1, 1, tzinfo=UTC),
}


def taking(rows: list[Any], *, missing: list[int] | None = None, **changes: Any) -> Closing:
    told = wire.TakenOver.model_validate({**TAKEN, "modified_at": None, "created_at": None, **changes})
    return closing(rows).model_copy(update={"taken_over": told, "missing": missing or []})


def test_what_was_taken_over_whole_is_the_whole_and_what_was_not_has_none() -> None:
    rows = [row(0, 1), row(1, 2)]
    assert whole_of(taking(rows), "avi", rows) == {"whole": {"sha256": f"{7:064x}", "size": 2}}
    assert whole_of(taking(rows, missing=[2]), "avi", rows) == whole_of(closing(rows), "avi", rows) == {}
    assert whole_of(taking(rows[:1], size=1, sha256=f"{1:064x}"), "avi", rows[:1])


@pytest.mark.parametrize("changes", [{"size": 3}, {"format": "mov"}])
def test_a_whole_that_the_segments_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    rows = [row(0, 1), row(1, 2)]
    with pytest.raises(errors.WholeDiffers):
        whole_of(taking(rows, **changes), "avi", rows)


def test_a_single_segment_is_the_whole() -> None:
    with pytest.raises(errors.WholeDiffers):
        whole_of(taking([row(0, 1)], size=1), "avi", [row(0, 1)])
