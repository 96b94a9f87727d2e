"""The metrics of one evaluation: their type, their file ``metrics.json`` and their tables on screen."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbv2kit.cli.console import open_console
from mbv2kit.files.writing import write_atomically
from mbv2kit.structures import metric_name
from mbv2kit.texts import shown

# The metric that is the mean over several heads.
MEAN = "mean"
LONG_LIST = 40
ENDS = 10
_PADDED = 8


@dataclass(frozen=True, slots=True)
class Scores:
    """The result of one evaluation.

    Attributes:
        metrics: Overall metrics as fractions in 0..1; NaN if the data set has nothing to measure one.
        per_class: Metrics of each class, the most important first; every class has the same keys. Counts, such as the
            number of images, are integers.
        notes: Sentences on what the metrics do not say, such as classes that never occur; where there are none, one
            on the metrics that are NaN.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        missing = [name for name, value in self.metrics.items() if math.isnan(value)]
        if missing and not self.notes:
            object.__setattr__(self, "notes", (f"{' and '.join(missing)} could not be measured on this data.",))


def combine(scores: Mapping[str, Scores], references: Mapping[str, float] | None = None) -> Scores:
    """Returns the metrics of several heads as one.

    The metric ``mean`` comes first: the mean over the heads of the first metric of each, such as AP. A head whose first
    metric is NaN is left out of it.

    Args:
        scores: The metrics of each head.
        references: Value of a head's first metric that counts as 1, such as that of a model of its own; the metric of
            other heads counts as it is.

    Returns:
        The metrics of all heads, after the name of the head if that is not its task; the classes of a head are called
        ``HEAD/CLASS``.
    """
    first = [next(iter(each.metrics.values())) / (references or {}).get(head, 1.0) for head, each in scores.items()]
    known = [value for value in first if not math.isnan(value)]
    return Scores(
        {
            MEAN: sum(known) / len(known) if known else math.nan,
            **{metric_name(head, name): value for head, each in scores.items() for name, value in each.metrics.items()},
        },
        {f"{head}/{name}": values for head, each in scores.items() for name, values in each.per_class.items()},
        tuple(f"{head}: {note}" for head, each in scores.items() for note in each.notes),
    )


def write_metrics(
    path: Path, *, task: str, dataset: str, split: str, images: int, seconds: float, scores: Scores, **extra: Any
) -> None:
    """Writes ``metrics.json`` completely or not at all, because a run that has one counts as finished.

    Args:
        path: The file to write; a missing folder is created.
        task: Name of the task.
        dataset: Name of the data set.
        split: The evaluated split.
        images: Number of evaluated images.
        seconds: Duration of the evaluation.
        scores: The metrics. NaN and infinity are written as null, because JSON has neither.
        extra: Further entries of types that JSON has, such as the evaluated weights.
    """
    content = {
        "task": task,
        "dataset": dataset,
        "split": split,
        "images": images,
        "seconds": round(seconds, 3),
        **extra,
        "metrics": scores.metrics,
        "per_class": scores.per_class,
        **({"notes": list(scores.notes)} if scores.notes else {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(_finite_or_null(content), indent=2, allow_nan=False) + "\n")


def model_in_brief(description: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Returns a short description that identifies the model of some metrics.

    Args:
        description: The content of a ``model.json``.
        *names: The heads that the metrics are of.

    Returns:
        ``backbone``, ``head`` and ``input`` as in the description, and the number of ``classes``; for several heads
        ``heads``, and ``classes`` of each.

    Raises:
        LookupError: The description lacks one of them.
    """
    heads = {name: description["heads"][name] for name in names}
    classes = {name: len(description["class_names"][name]) for name in names}
    if len(names) > 1:
        return {"backbone": description["backbone"], "heads": heads, "classes": classes, "input": description["input"]}
    (head,), (count,) = heads.values(), classes.values()
    return {"backbone": description["backbone"], "head": head, "classes": count, "input": description["input"]}


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_scores(scores: Scores, console: Console | None = None) -> None:
    """Prints the overall metrics, a row per class, and the notes."""
    # The twelve of COCO fit into 80 characters.
    overall = Table(*map(escape, scores.metrics), padding=0 if len(scores.metrics) > _PADDED else (0, 1))
    overall.add_row(*map(_format, scores.metrics.values()))
    for column in overall.columns:
        column.justify = "right"
    console = console or open_console()
    console.print(overall)
    console.print(per_class_table(scores))
    for note in scores.notes:
        console.print(escape(note))


def per_class_table(scores: Scores) -> Table:
    """Builds a table with a row per class, in the order of the classes.

    For more than 40 classes, it has the best ten and the worst ten by their first metric, and the number of classes
    that are left out; classes without that metric are always left out.
    """
    rows = list(scores.per_class.items())
    table = Table("class")
    for metric in rows[0][1] if rows else ():
        table.add_column(escape(metric), justify="right")
    if len(rows) <= LONG_LIST:
        _add_rows(table, rows)
        return table
    measured = [row for row in rows if not math.isnan(_first_metric(row))]
    ranked = sorted(measured, key=_first_metric, reverse=True)
    best, worst = ranked[:ENDS], ranked[ENDS:][-ENDS:]
    _add_rows(table, best)
    table.add_section()
    _add_rows(table, worst)
    left_out = len(rows) - len(best) - len(worst)
    note = f"best {len(best)} and worst {len(worst)}; {left_out} more classes are in metrics.json"
    table.caption, table.min_width = note, len(note)
    return table


def _add_rows(table: Table, rows: list[tuple[str, dict[str, float]]]) -> None:
    for name, metrics in rows:
        table.add_row(escape(shown(name)), *map(_format, metrics.values()))


def _first_metric(row: tuple[str, dict[str, float]]) -> float:
    return next(iter(row[1].values()))


def _format(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if math.isfinite(value) else "-"
