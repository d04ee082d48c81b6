"""The frame of `./dev bench`: a table of rows, interleaved runs, medians, one line of result for each goal.

A row takes a measurement of ours, and beside it of its peers: the same thing done by known programs. In each
round ours and every peer take their turn, so that whatever else the machine is doing falls on all alike.

    @row("start", unit="s", better="lower", goal=5.0, goal_on="ours")
    def start() -> float: ...

A measurement is one number, or several by name where one run yields more than one (`Line.figure`). A row
with several peers or figures prints a line for each: the first under the row's own name, then NAME:LABEL.
"""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

Better = Literal["lower", "higher"]
Figures = Mapping[str, float]
Measure = Callable[[], float] | Callable[[], Figures]


class Unavailable(Exception):
    """A peer, or what a row needs, cannot be had here. Its message says what and why."""


@dataclass(frozen=True)
class Line:
    """One goal of a row. `goal` bounds ours where `goal_on` is "ours", else ours divided by peer.

    `figure` names the number where a measurement yields several; `label` tells the row's lines apart.
    """

    unit: str
    better: Better
    goal: float
    goal_on: Literal["ours", "ratio"] = "ratio"
    peer: Measure | None = None
    figure: str = ""
    label: str = ""


@dataclass(frozen=True)
class Row:
    name: str
    ours: Measure
    lines: tuple[Line, ...]
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
    figure: str = "",
    more: tuple[Line, ...] = (),
    runs: int = 5,
) -> Callable[[Measure], Measure]:
    """Register the decorated function as row `name`. `more` are further goals of the same measurement."""

    def register(ours: Measure) -> Measure:
        first = Line(unit, better, goal, goal_on, peer, figure)
        ROWS[name] = Row(name, ours, (first, *more), runs)
        return ours

    return register


def measure(one: Row) -> list[Result]:
    """Take all measurements of a row; a result for each of its lines.

    Where ours cannot be had no line is met. A peer that cannot be had is told on its own lines alone.
    """
    taken: dict[Measure, list[Figures]] = {one.ours: []}
    taken |= {line.peer: [] for line in one.lines if line.peer is not None}
    absent: dict[Measure, str] = {}
    for _ in range(one.runs):
        for each in taken:
            if each in absent or one.ours in absent:
                continue
            try:
                taken[each].append(_figures(each()))
            except Unavailable as e:
                absent[each] = str(e)
    return [_result(one, line, taken, absent) for line in one.lines]


def _figures(measured: float | Figures) -> Figures:
    return measured if isinstance(measured, Mapping) else {"": measured}


def _result(one: Row, line: Line, taken: dict[Measure, list[Figures]], absent: dict[Measure, str]) -> Result:
    def median(of: Measure | None) -> float | None:
        return statistics.median(run[line.figure] for run in taken[of]) if of and taken[of] else None

    mine, theirs = median(one.ours), median(line.peer)
    note = absent.get(one.ours) or (absent.get(line.peer) if line.peer else None)
    ratio = mine / theirs if mine is not None and theirs else None
    judged = None if note else mine if line.goal_on == "ours" else ratio
    met = judged is not None and (judged <= line.goal if line.better == "lower" else judged >= line.goal)
    name = f"{one.name}:{line.label}" if line.label else one.name
    runs = len(taken[one.ours])
    return Result(name, mine, theirs, line.unit, ratio, line.better, line.goal, met, runs, note)


def as_json(result: Result) -> str:
    """One JSON object on one line; `note` only where something could not be had."""
    fields = asdict(result)
    if result.note is None:
        del fields["note"]
    return json.dumps(fields, ensure_ascii=False)


HEADER = f"{'row':<22}{'ours':>12}{'peer':>12}  {'unit':<8}{'ratio':>8}  {'better':<8}{'goal':>8}  {'met':<5}runs"


def as_line(result: Result) -> str:
    """One line under HEADER."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"

    line = (
        f"{result.name:<22}{number(result.ours):>12}{number(result.peer):>12}  {result.unit:<8}"
        f"{number(result.ratio):>8}  {result.better:<8}{number(result.goal):>8}  "
        f"{'yes' if result.met else 'NO':<5}{result.runs}"
    )
    return line if result.note is None else f"{line}\n    {result.note}"
