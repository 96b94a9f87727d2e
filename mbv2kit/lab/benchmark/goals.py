"""How to say what is wanted of our models beside others, and whether a run shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from mbv2kit.lab.benchmark.competitor import Group, Precision
from mbv2kit.lab.benchmark.ratios import Spread, paired, spread
from mbv2kit.lab.benchmark.results import CaseResult, Results, Row


@dataclass(frozen=True, slots=True)
class Pick:
    """Which competitor of a case is meant: the fastest of those that fit.

    Attributes:
        measure: Whose values count.
        group: Of the competitor; None for any.
        precision: Of the competitor; None for any.
        name: Of the competitor; None for any.
        fastest_by: The measure that decides which is the fastest; None for ``measure``.
    """

    measure: str
    group: Group | None = None
    precision: Precision | None = None
    name: str | None = None
    fastest_by: str | None = None

    def __call__(self, case: CaseResult) -> Row | None:
        """Returns the row, or None where none fits."""
        by = self.fastest_by or self.measure
        fitting = [
            row
            for row in case.rows
            if {self.measure, by} <= row.rounds.keys()
            and self.group in (None, row.group)
            and self.precision in (None, row.precision)
            and self.name in (None, row.name)
        ]
        return min(fitting, key=lambda row: spread(row.rounds[by]).median, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A number that is wanted: how many times as fast we are, or what share of another's time or memory we need.

    Attributes:
        text: What it is about.
        job: Where it shows.
        case: Where it shows.
        ours: Which competitor of ours.
        other: Which one it is compared with; None for our value as it is.
        at_least: The other's value over ours must reach it.
        at_most: Ours over the other's must not exceed it.
    """

    text: str
    job: str
    case: str
    ours: Pick
    other: Pick | None
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run shows of a goal.

    Attributes:
        goal: The goal.
        ours: Name of our competitor.
        other: Name of the one it was compared with, or nothing.
        value: What was found.
        reached: Whether the median reaches the goal.
    """

    goal: Goal
    ours: str
    other: str
    value: Spread
    reached: bool


def judge(goals: Sequence[Goal], results: Results) -> list[Verdict]:
    """Judges those goals whose competitors took part."""
    verdicts = []
    for goal in goals:
        case = results.case(goal.job, goal.case)
        ours = goal.ours(case) if case is not None else None
        if case is None or ours is None:
            continue
        values, other = ours.rounds[goal.ours.measure], None
        if goal.other is not None:
            other = goal.other(case)
            if other is None:
                continue
            others = other.rounds[goal.other.measure]
            values = paired(others, values) if goal.at_least is not None else paired(values, others)
        found = spread(values)
        reached = found.median >= goal.at_least if goal.at_least is not None else found.median <= (goal.at_most or 0)
        verdicts.append(
            Verdict(
                goal=goal,
                ours=ours.name,
                other=other.name if other is not None else "",
                value=found,
                reached=reached,
            )
        )
    return verdicts
