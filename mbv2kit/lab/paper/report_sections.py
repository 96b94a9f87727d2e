"""The sections of the report on the paper, each a function."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mbv2kit.exporting.accuracy import MAIN_METRIC
from mbv2kit.lab.paper import architecture, figures, table3
from mbv2kit.lab.paper.cases import CASES, FIGURE_5, FIGURE_5_V1
from mbv2kit.lab.paper.manifold import experiment
from mbv2kit.lab.paper.published import quirks
from mbv2kit.lab.paper.report_memory import memory
from mbv2kit.lab.paper.report_numbers import (
    DIFFERENCE,
    ReportData,
    difference_of,
    numbers_table,
    rows_table,
    shown_like,
)
from mbv2kit.lab.paper.report_runs import measured
from mbv2kit.lab.paper.report_trained import figure_6, figure_7
from mbv2kit.lab.report_page import Illustration, Section, Table
from mbv2kit.structures import Task

SEEDS = 100
# Networks that are a single point in Figure 5, each a row of Table 4.
POINTS = ("shufflenet_1.5", "shufflenet_2", "nasnet_a")
RUNS_LISTED = 10
TABLE_3_NETWORKS = {
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2",
    "shufflenet": "ShuffleNet (2x, g = 3)",
}


def figure_1(data: ReportData) -> Section:
    """Section 3.2: how much of a spiral survives ReLU."""
    rows = [
        [
            str(survival.dimensions),
            f"{survival.lost.mean:.1%}",
            f"{survival.recoverable.mean:.1%}",
            f"{survival.fitted_error.mean:.3f}",
            f"{survival.fitted_error.deviation:.3f}",
        ]
        for survival in experiment(SEEDS)
    ]
    columns = [">n", ">points lost", ">recoverable", ">error after a linear fit", ">standard deviation"]
    note = (
        f"Means over {SEEDS} random matrices. Lost: no channel is positive; recoverable: two or more channels are "
        "positive, which determine the point. The error is relative to the size of the spiral; 1 means nothing is left."
    )
    return Section(
        data.tables["figure1"].title,
        [
            "ReLU destroys most of the spiral in few dimensions and preserves it in many, as in the paper:",
            Illustration(
                figures.figure_1(data.images / "figure_1.png"), "Figure 1 by mbv2kit: one random matrix for each n."
            ),
            Table(columns=columns, rows=rows, notes=[note]),
            numbers_table(data, "figure1"),
        ],
    )


def table_2(data: ReportData) -> Section:
    """Table 2, and mbv2kit's network layer by layer."""
    rows = [
        [
            layer.name,
            layer.operator,
            f"{layer.size} x {layer.size} x {layer.channels}",
            *("" if value is None else str(value) for value in (layer.expansion, layer.out_channels, layer.stride)),
            f"{layer.parameters:,}",
            f"{layer.madds:,}",
        ]
        for layer in architecture.layers()
    ]
    columns = ["module", "operator", ">input", ">t", ">c", ">s", ">parameters", ">multiply-adds"]
    return Section(
        data.tables["table2"].title,
        [
            "A row of Table 2 is shown as its filled columns: size and channels of the input, t, c, n, s.",
            numbers_table(data, "table2"),
            Table(columns=columns, rows=rows, title="mbv2kit's layers, read from the operations of one pass"),
        ],
    )


def table_3(data: ReportData) -> Section:
    """Table 3, a row per cell, with the tensors of the real networks."""
    published, corrected = data.tables["table3"], table3.corrected_columns()
    rows, reasons = [], []
    for row, size in published.rows.items():
        for network, label in TABLE_3_NETWORKS.items():
            cell = [data.comparisons.get(f"table3/{row}/{network}_{measure}") for measure in ("channels", "kb")]
            there = [item for item in cell if item is not None]
            column = corrected[network]
            real = column.cells[int(row)] if row.isdigit() else column.maximum
            rows.append(
                [
                    size,
                    label,
                    " / ".join(f"{item.number.value:,}" for item in there),
                    " / ".join(shown_like(item.ours, item.number.value) for item in there if item.ours is not None),
                    difference_of(there[-1]),
                    f"{real.channels:,} / {real.kilobytes:,.1f}" if row != "max_earlier" else "",
                    ", ".join(dict.fromkeys(item.verdict for item in there)),
                ]
            )
            reasons += [f"{label} at {size}: {item.number.reason}" for item in there if item.number.reason]
    columns = ["", "network", ">published, channels / Kb", ">mbv2kit", DIFFERENCE, ">real network", "verdict"]
    return Section(published.title, [Table(columns=columns, rows=rows, notes=[published.note, *reasons])])


def figure_5(data: ReportData) -> Section:
    """Accuracy against multiply-adds for all widths and resolutions."""
    series = {
        "MobileNetV2": _curves(data, "figure5", FIGURE_5),
        "MobileNetV1": _curves(data, "figure5_v1", FIGURE_5_V1),
    }
    points = {data.tables["table4"].rows[row]: _point(data, "table4", row) for row in POINTS}
    path = figures.figure_5(series, points, data.images / "figure_5.png")
    return Section(
        "Figure 5: accuracy and cost",
        [
            Illustration(path, "Figure 5 by mbv2kit: multiply-adds counted, accuracies as published."),
            rows_table(data, "figure5", data.tables["figure5"].title),
            rows_table(data, "figure5_v1", data.tables["figure5_v1"].title),
            numbers_table(data, "figure5"),
        ],
    )


def table_7(data: ReportData) -> Section:
    """Pascal VOC, and the same networks in the DeepLab model zoo."""
    section = _plain(data, "table7", task="segmentation")
    rows = [
        [label, f"{case.count('madds') / 1e9:,.2f}", f"{case.count('madds_s2b') / 1e9:,.2f}"]
        for row, label in data.tables["table7"].rows.items()
        for case in [CASES[f"table7/{row}"]]
    ]
    columns = ["row", ">in mbv2kit", ">in TensorFlow"]
    padding = Table(columns=columns, rows=rows, title="Billion multiply-adds without and with TensorFlow's padding")
    zoo = rows_table(data, "deeplab_zoo", data.tables["deeplab_zoo"].title)
    return Section(section.title, [*section.blocks, padding, zoo])


def what_does_not_reproduce(data: ReportData) -> Section:
    """Numbers that are known not to reproduce, and ambiguities of the paper."""
    rows = [
        [
            number.source,
            number.name,
            f"{number.value} {number.unit}".strip(),
            f"{number.counted} {number.unit}".strip(),
            number.reason,
        ]
        for table in data.tables.values()
        for number in table.numbers.values()
        if number.counted is not None
    ]
    columns = ["source", "number", ">published", ">mbv2kit", "reason"]
    return Section(
        "What does not reproduce, and why",
        [Table(columns=columns, rows=rows), "Ambiguities and contradictions in the paper:", *quirks()],
    )


def _plain(data: ReportData, name: str, task: Task | None = None) -> Section:
    """Returns a table of the paper and the related numbers in the text."""
    table = data.tables[name]
    blocks: list[str | Table | Illustration] = []
    if table.rows:
        blocks.append(rows_table(data, name))
    if any(not number.row for number in table.numbers.values()):
        blocks.append(numbers_table(data, name))
    return Section(table.title, [*blocks, *_other_runs(data, task)] if task else blocks)


def _other_runs(data: ReportData, task: Task) -> list[str | Table | Illustration]:
    """Returns a table of the newest runs of a task that match no number of the paper."""
    matching = (measured(comparison.number, data.runs) for comparison in data.comparisons.values())
    placed = {run.folder for run in matching if run is not None}
    others = [run for run in data.runs if run.task == task and run.folder not in placed][:RUNS_LISTED]
    if not others:
        return []
    metric = MAIN_METRIC[task]
    rows = []
    for run in others:
        backbone, (height, width) = run.model["backbone"], run.model["input"]["size"]
        value = run.metrics.get(metric)
        rows.append(
            [
                f"{backbone['name']} {backbone.get('width', 1.0)}, {run.model['head']['name']}",
                f"{height} x {width}",
                f"{run.data}, {run.split}",
                f"{run.images:,}",
                "" if value is None else f"{100 * value:.1f}",
                str(run.folder),
            ]
        )
    columns = ["model", ">input", "data set", ">images", f">{metric}, %", "folder"]
    note = "Data set, split or network differ from the paper's, so these numbers cannot be compared with it."
    return [Table(columns=columns, rows=rows, title="Other measurements on this machine", notes=[note])]


def _curves(
    data: ReportData, table: str, widths: Mapping[float, Sequence[int]]
) -> dict[str, list[tuple[float, float]]]:
    """Returns a curve for each width, from narrow to wide, each by rising image size."""
    return {
        f"width {width}": [_point(data, table, f"{width}@{side}") for side in sorted(widths[width])]
        for width in sorted(widths)
    }


def _point(data: ReportData, table: str, row: str) -> tuple[float, float]:
    """Returns the counted million multiply-adds and the published accuracy."""
    madds = CASES[f"{table}/{row}"].count("madds") / 1e6
    top1 = data.tables[table].numbers[f"{table}/{row}/top1"].value
    assert isinstance(top1, float)
    return madds, top1


# In the paper's order, by the names in the key ``tables``.
SECTIONS: Mapping[str, Callable[[ReportData], Section]] = {
    "figure1": figure_1,
    "table1": partial(_plain, name="table1"),
    "table2": table_2,
    "section4": partial(_plain, name="section4"),
    "table3": table_3,
    "table4": partial(_plain, name="table4", task="classification"),
    "figure5": figure_5,
    "table5": partial(_plain, name="table5"),
    "table6": partial(_plain, name="table6", task="detection"),
    "table7": table_7,
    "figure6": figure_6,
    "memory": memory,
    "figure7": figure_7,
    "training": partial(_plain, name="training"),
    "quirks": what_does_not_reproduce,
}
# Published tables of sections that do not just show the table of their own name.
TABLES_OF: Mapping[str, Sequence[str]] = {
    "figure5": ("figure5", "figure5_v1"),
    "table7": ("table7", "deeplab_zoo"),
    "quirks": (),
}
