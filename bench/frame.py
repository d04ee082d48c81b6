"""The frame of `./dev bench`: a table of rows, interleaved runs, medians, one line of result each.

A row is a function that takes one measurement of ours. Its peer, where it has one, is another function
that measures the same thing done by a known program. Ours and peer take turns, so that whatever else the
machine is doing falls on both alike.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

Better = Literal["lower", "higher"]
Measure = Callable[[], float]


class Unavailable(Exception):
    """A peer, or what a row needs, cannot be had here. Its message says what and why."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `goal` bounds ours where `goal_on` is "ours", else ours divided by peer."""

    name: str
    unit: str
    better: Better
    goal: float
    goal_on: Literal["ours", "ratio"]
    ours: Measure
    peer: Measure | None
    runs: int


@dataclass(frozen=True)
class Result:
    """What was measured: medians of `runs` measurements each; null where there is nothing to tell."""

    name: str
    ours: float | None
    peer: float | None
    unit: str
    ratio: float | None
    better: Better
    goal: float
    met: bool
    runs: int
    note: str | None = None


ROWS: dict[str, Row] = {}


def row(
    name: str,
    *,
    unit: str,
    better: Better,
    goal: float,
    goal_on: Literal["ours", "ratio"] = "ratio",
    peer: Measure | None = None,
    runs: int = 5,
) -> Callable[[Measure], Measure]:
    """Register the decorated function, one measurement in `unit`, as row `name`."""

    def register(ours: Measure) -> Measure:
        ROWS[name] = Row(name, unit, better, goal, goal_on, ours, peer, runs)
        return ours

    return register


def measure(one: Row) -> Result:
    """Take all measurements of a row. What cannot be had is told in `note`, and the goal is then not met."""
    ours: list[float] = []
    peer: list[float] = []
    try:
        for _ in range(one.runs):
            ours.append(one.ours())
            if one.peer is not None:
                peer.append(one.peer())
    except Unavailable as e:
        mine = statistics.median(ours) if ours else None
        return Result(one.name, mine, None, one.unit, None, one.better, one.goal, False, len(ours), str(e))
    mine = statistics.median(ours)
    theirs = statistics.median(peer) if peer else None
    ratio = mine / theirs if theirs else None
    judged = mine if one.goal_on == "ours" else ratio
    met = judged is not None and (judged <= one.goal if one.better == "lower" else judged >= one.goal)
    return Result(one.name, mine, theirs, one.unit, ratio, one.better, one.goal, met, one.runs)


def as_json(result: Result) -> str:
    """One JSON object on one line; `note` only where something could not be had."""
    fields = asdict(result)
    if result.note is None:
        del fields["note"]
    return json.dumps(fields, ensure_ascii=False)


HEADER = f"{'row':<16}{'ours':>12}{'peer':>12}  {'unit':<8}{'ratio':>8}  {'better':<8}{'goal':>8}  {'met':<5}runs"


def as_line(result: Result) -> str:
    """One line under HEADER."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

    line = (
        f"{result.name:<16}{number(result.ours):>12}{number(result.peer):>12}  {result.unit:<8}"
        f"{number(result.ratio):>8}  {result.better:<8}{number(result.goal):>8}  "
        f"{'yes' if result.met else 'NO':<5}{result.runs}"
    )
    return line if result.note is None else f"{line}\n    {result.note}"
