"""A run whose numbers are known."""

from mbv2kit.lab.benchmark.competitor import Group, Precision
from mbv2kit.lab.benchmark.results import CaseResult, Results, Row


def row(name: str, group: Group, precision: Precision = "fp32", **milliseconds: list[float]) -> Row:
    rounds = {measure: [value / 1000 for value in values] for measure, values in milliseconds.items()}
    return Row(name=name, group=group, precision=precision, rounds=rounds)


def case() -> CaseResult:
    return CaseResult(
        job="job",
        name="case",
        title="Some work",
        unit="s",
        baseline=("peer", "whole"),
        notes=("A note.",),
        rows=[
            row("peer", "peer", whole=[8, 8, 30]),
            row("hand a", "by hand", whole=[5, 5, 5], network=[4, 4, 4]),
            row("hand b", "by hand", whole=[6, 6, 6], network=[3, 3, 3]),
            row("ours fp32", "ours", whole=[4, 4, 5]),
            row("ours int8", "ours", "int8", whole=[2, 2, 2]),
            Row(name="absent", group="peer", precision="fp32", problem="skipped: absent not installed in python"),
        ],
    )


def results() -> Results:
    return Results(
        machine={"processor": "abacus", "versions": {"beads": "1.0"}}, settings={"rounds": 3}, cases=[case()]
    )
