"""Targets for the speed and memory of mbv2kit's models, and whether a benchmark run meets them."""

from collections.abc import Sequence
from dataclasses import dataclass

from mbv2kit.lab.benchmark.competitor import Group, Precision
from mbv2kit.lab.benchmark.ratios import Spread, paired, spread
from mbv2kit.lab.benchmark.results import CaseResult, Results, Row


@dataclass(frozen=True, slots=True)
class Pick:
    """Selects the fastest competitor of a case that fits.

    Attributes:
        measure: Measure whose values count.
        group: Group of the competitor; None for any.
        precision: Precision of the competitor; None for any.
        name: Name of the competitor; None for any.
        fastest_by: Measure that decides which is the fastest; None for ``measure``.
    """

    measure: str
    group: Group | None = None
    precision: Precision | None = None
    name: str | None = None
    fastest_by: str | None = None

    def __call__(self, case: CaseResult) -> Row | None:
        """Returns the row, or None if none fits."""
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
class Target:
    """A limit for a number: a speed-up over another competitor, or a share of its time or memory.

    Attributes:
        text: What is measured.
        job: Job of the case.
        case: Case whose results count.
        ours: Competitor of mbv2kit.
        other: Competitor that it is compared with; None for the value of ``ours`` itself.
        at_least: Lower limit of the other's value over ours.
        at_most: Upper limit of our value over the other's.
    """

    text: str
    job: str
    case: str
    ours: Pick
    other: Pick | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def limit(self) -> str:
        """The limit as text."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a run meets a target.

    Attributes:
        target: The target.
        ours: Name of the competitor of mbv2kit.
        other: Name of the competitor that it was compared with, or nothing.
        value: Measured value.
        met: Whether the median is within the limit.
    """

    target: Target
    ours: str
    other: str
    value: Spread
    met: bool


def judge(targets: Sequence[Target], results: Results) -> list[Verdict]:
    """Judges the targets whose competitors have results."""
    verdicts = []
    for target in targets:
        case = results.case(target.job, target.case)
        ours = target.ours(case) if case is not None else None
        if case is None or ours is None:
            continue
        values, other = ours.rounds[target.ours.measure], None
        if target.other is not None:
            other = target.other(case)
            if other is None:
                continue
            others = other.rounds[target.other.measure]
            values = paired(others, values) if target.at_least is not None else paired(values, others)
        found = spread(values)
        met = found.median >= target.at_least if target.at_least is not None else found.median <= (target.at_most or 0)
        verdicts.append(
            Verdict(target=target, ours=ours.name, other=other.name if other is not None else "", value=found, met=met)
        )
    return verdicts
