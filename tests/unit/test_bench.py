"""The frame of the benchmarks: medians, ratios, goals, what cannot be had, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from bench import __main__ as command
from bench.frame import ROWS, Line, Measure, Result, Row, Unavailable, as_json, as_line, measure

FIELDS = {"name", "ours", "peer", "unit", "ratio", "better", "goal", "met", "runs"}


def saying(*values: float | dict[str, float]) -> Measure:
    """A measurement that says these, one after the other."""
    left: Iterator[float | dict[str, float]] = iter(values)
    return lambda: next(left)  # type: ignore[return-value]


def absent() -> float:
    raise Unavailable("没有这个程序")


def one(ours: Measure, *lines: Line, runs: int = 3) -> list[Result]:
    return measure(Row("row", ours, lines, runs))


def test_the_median_of_ours_is_divided_by_the_median_of_the_peer() -> None:
    (result,) = one(saying(9, 1, 4), Line("MiB/s", "higher", 2.0, peer=saying(2, 100, 1)))
    assert (result.ours, result.peer, result.ratio, result.runs) == (4, 2, 2.0, 3)
    assert result.met


@pytest.mark.parametrize(("better", "met"), [("higher", False), ("lower", True)])
def test_a_goal_is_bound_from_the_better_side(better: str, met: bool) -> None:
    (result,) = one(saying(1, 1, 1), Line("s", better, 1.5, peer=saying(1, 1, 1)))  # type: ignore[arg-type]
    assert result.met is met


def test_a_goal_on_ours_needs_no_peer() -> None:
    (result,) = one(saying(3, 5, 4), Line("s", "lower", 4.0, "ours"))
    assert (result.ours, result.peer, result.ratio, result.met) == (4, None, None, True)


def test_ours_and_every_peer_take_turns() -> None:
    order: list[str] = []

    def turn(who: str) -> Measure:
        def one_turn() -> float:
            order.append(who)
            return 1.0

        return one_turn

    one(turn("ours"), Line("s", "lower", 1, peer=turn("a")), Line("s", "lower", 1, peer=turn("b")), runs=2)
    assert order == ["ours", "a", "b", "ours", "a", "b"]


def test_one_measurement_may_yield_several_figures() -> None:
    ours = saying({"p50": 10, "rate": 3000}, {"p50": 30, "rate": 1000})
    peer = saying({"p50": 10, "rate": 100}, {"p50": 10, "rate": 100})
    first, second = one(
        ours,
        Line("ms", "lower", 2.0, peer=peer, figure="p50"),
        Line("/s", "higher", 2500, "ours", peer=peer, figure="rate", label="rate"),
        runs=2,
    )
    assert (first.name, first.ours, first.peer, first.met) == ("row", 20, 10, True)
    assert (second.name, second.ours, second.ratio, second.met) == ("row:rate", 2000, 20, False)


def test_a_peer_that_cannot_be_had_says_so_and_spoils_no_other() -> None:
    gone, there = one(
        saying(2, 2, 2), Line("s", "lower", 9, peer=absent), Line("s", "lower", 2, peer=saying(1, 1, 1))
    )
    assert (gone.ours, gone.peer, gone.ratio, gone.met, gone.note) == (2, None, None, False, "没有这个程序")
    assert (there.ratio, there.met, there.note) == (2, True, None)


def test_without_ours_nothing_is_met() -> None:
    (result,) = one(absent, Line("s", "lower", 9, peer=saying(1, 1, 1)))
    assert (result.ours, result.met, result.runs, result.note) == (None, False, 0, "没有这个程序")


def test_json_is_one_object_with_the_agreed_fields() -> None:
    result = Result("row", 1.0, 2.0, "s", 0.5, "lower", 1.0, True, 5)
    assert json.loads(as_json(result)).keys() == FIELDS
    assert "\n" not in as_json(result)
    gone = Result("row", None, None, "s", None, "lower", 1.0, False, 0, "没有这个程序")
    assert json.loads(as_json(gone)) == {**dict.fromkeys(FIELDS), **json.loads(as_json(gone))}
    assert json.loads(as_json(gone))["note"] == "没有这个程序"
    assert "没有这个程序" in as_line(gone)


def test_an_unknown_name_is_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["start", "no-such-row"]) == 2
    said = capsys.readouterr()
    assert "no-such-row" in said.err
    assert not said.out


def test_the_command_says_by_its_exit_code_whether_goals_were_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ROWS, "quick", Row("quick", saying(1, 3), (Line("s", "lower", 1.0, "ours"),), 1))
    assert command.main(["quick", "--json"]) == 0
    assert command.main(["quick", "--json"]) == 1
    assert [json.loads(line)["met"] for line in capsys.readouterr().out.splitlines()] == [True, False]


def test_every_row_of_the_vault_is_there() -> None:
    assert {"start", "verify", "log-append", "direct-bulk"} <= ROWS.keys()
