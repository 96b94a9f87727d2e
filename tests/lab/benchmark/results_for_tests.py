"""A run with known numbers."""

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
        baseline=("theirs", "whole"),
        notes=("A note.",),
        rows=[
            row("theirs", "library", whole=[8, 8, 30]),
            row("runtime a", "runtime", whole=[5, 5, 5], network=[4, 4, 4]),
            row("runtime b", "runtime", whole=[6, 6, 6], network=[3, 3, 3]),
            row("mbv2kit fp32", "mbv2kit", whole=[4, 4, 5]),
            row("mbv2kit int8", "mbv2kit", "int8", whole=[2, 2, 2]),
            Row(name="absent", group="library", precision="fp32", problem="skipped: absent not installed in python"),
        ],
    )


def results() -> Results:
    return Results(
        machine={"processor": "abacus", "versions": {"beads": "1.0"}}, settings={"rounds": 3}, cases=[case()]
    )
