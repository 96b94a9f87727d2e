"""The sections of the report that need trained networks: the ablations of Figure 6 and the activations of Figure 7."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from mbv2kit.analysis.activations import activation_patterns
from mbv2kit.data.sources import open_source
from mbv2kit.errors import UserError
from mbv2kit.evaluation.plots import epoch_means
from mbv2kit.exporting.accuracy import MAIN_METRIC
from mbv2kit.lab.paper import figures
from mbv2kit.lab.paper.report_numbers import ReportData, numbers_table
from mbv2kit.lab.paper.report_runs import Run
from mbv2kit.lab.report_page import Illustration, Section, Table
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Image

PAPERS_FORM = ("linear", "bottleneck")
# Names of the four forms by the options of the backbone that make them, the best first in the paper.
PANELS: Mapping[str, Mapping[tuple[str, str], str]] = {
    "Figure 6a": {("linear", "bottleneck"): "linear bottleneck", ("relu6", "bottleneck"): "ReLU6 in bottleneck"},
    "Figure 6b": {
        ("linear", "bottleneck"): "shortcut between bottlenecks",
        ("linear", "expansion"): "shortcut between expansions",
        ("linear", "none"): "no shortcut",
    },
}
IMAGES = 8
Curve = tuple[list[float], list[float]]


class Ablation(NamedTuple):
    """Trainings that differ in the form of the block alone.

    Attributes:
        setting: What they share, in words.
        measure: Name of their main figure.
        forms: The curve of each run, by the form of the bottleneck and of the shortcut.
    """

    setting: str
    measure: str
    forms: dict[tuple[str, str], list[Curve]]


def figure_6(data: ReportData) -> Section:
    """Section 6.4: learning curves of the ablations, where runs of them are there."""
    title = data.tables["figure6"].title
    groups = _ablations(data.runs)
    blocks: list[str | Table | Illustration] = [
        "The paper trains the four forms on ImageNet and prints no final accuracy. It puts the linear bottleneck above "
        "the one with ReLU6, and shortcuts between bottlenecks above those between expansions, above none.",
        numbers_table(data, "figure6"),
    ]
    for number, ablation in enumerate(groups, start=1):
        blocks.append(f"Runs of ours: {ablation.setting}.")
        for panel, names in PANELS.items():
            curves = {name: ablation.forms[form] for form, name in names.items() if form in ablation.forms}
            if len(curves) < 2:
                continue
            path = data.images / f"figure_6{panel[-1]}_{number}.png"
            figures.figure_curves(curves, path, title=panel, measure=f"{ablation.measure} on validation images, %")
            blocks.append(
                Illustration(path, f"{panel}, ours: the mean of the runs in a band from the least to the most.")
            )
            blocks.append(_final(curves, ablation.measure))
    if not groups:
        blocks.append(
            "There are no such runs below the folder that was searched. To make them: python tools/train.py "
            "experiment=paper/ablation seed=0 dataset.root=DIR, then the same with paper/ablation_relu6, "
            "paper/ablation_expansions and paper/ablation_no_shortcut."
        )
    return Section(title, blocks)


def figure_7(data: ReportData) -> Section:
    """Appendix A: positive channels before and after training, of the newest run whose images are there."""
    blocks: list[str | Table | Illustration] = [numbers_table(data, "figure7")]
    for run in data.runs:
        trained, images = _trained(run), _images(run)
        if trained is None or not images:
            continue
        patterns = activation_patterns(trained, images)
        before = activation_patterns(_untrained(trained.spec), images)
        path = figures.figure_7(before, patterns, data.images / "figure_7.png")
        rows = [
            [
                pattern.layer,
                *map(str, (pattern.channels, pattern.threshold, round(pattern.mean, 1), pattern.min)),
                f"{pattern.share_below:.2%}",
            ]
            for pattern in patterns
        ]
        columns = ["layer", ">channels", ">needed", ">positive, mean", ">fewest", ">pixels with too few"]
        blocks += [
            Illustration(path, f"Figure 7, ours: {run.folder}, {len(images)} images of {run.data}, split {run.split}."),
            Table(columns=columns, rows=rows, title="After training"),
        ]
        break
    else:
        blocks.append("No run on mobilenet_v2 is below the folder that was searched, or none has its images here.")
    return Section(data.tables["figure7"].title, blocks)


def _ablations(runs: Sequence[Run]) -> list[Ablation]:
    """Groups the trainings that differ in nothing but the form of the block and the seed."""
    groups: dict[str, Ablation] = {}
    for run in runs:
        curve, config = _curve(run), _config(run)
        if curve is None or config is None or config["backbone"]["name"] != "mobilenet_v2":
            continue
        form = config["backbone"].pop("bottleneck"), config["backbone"].pop("shortcut")
        key = json.dumps({name: value for name, value in config.items() if name not in ("seed", "run_dir", "resume")})
        group = groups.setdefault(key, Ablation(_shared_by(run, config), MAIN_METRIC[run.task], defaultdict(list)))
        group.forms[form].append(curve)
    return [group for group in groups.values() if len(group.forms) > 1]


def _shared_by(run: Run, config: Mapping[str, Any]) -> str:
    height, width = config["input"]["size"]
    return (
        f"{run.task} on {run.data}, mobilenet_v2 of width {config['backbone']['width']}, "
        f"{height} x {width} pixels, {config['trainer']['max_epochs']} epochs"
    )


def _curve(run: Run) -> Curve | None:
    """The main figure over the epochs, in per cent; None where there is no table of a training."""
    table = run.folder / "metrics.csv"
    column = f"val/{MAIN_METRIC[run.task]}"
    try:
        means = epoch_means(table)
    except UserError:
        return None
    if column not in means:
        return None
    return [float(epoch) for epoch in means[column]], [100 * value for value in means[column].values()]


def _config(run: Run) -> dict[str, Any] | None:
    path = RunFolder(run.folder).config
    return OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else None  # type: ignore[return-value]


def _final(curves: Mapping[str, Sequence[Curve]], measure: str) -> Table:
    rows = []
    for name, runs in curves.items():
        last = [values[-1] for _, values in runs]
        spread = f"{min(last):.1f} to {max(last):.1f}" if len(last) > 1 else ""
        rows.append([name, str(len(last)), f"{sum(last) / len(last):.1f}", spread])
    columns = ["form, the paper's best first", ">runs", f">last {measure}, %", ">from least to most"]
    return Table(columns=columns, rows=rows)


def _trained(run: Run) -> VisionModel | None:
    """The model of a training of the paper's own form; None for another, or where it is damaged."""
    backbone = run.model["backbone"]
    form = backbone.get("bottleneck", "linear"), backbone.get("shortcut", "bottleneck")
    if backbone["name"] != "mobilenet_v2" or form != PAPERS_FORM or not RunFolder(run.folder).finished:
        return None
    try:
        return VisionModel.load(RunFolder(run.folder).model)
    except UserError:
        return None


def _images(run: Run) -> list[Image]:
    """Some images of the split that a training was validated on; none where they are not on this machine."""
    config = _config(run)
    if config is None:
        return []
    try:
        source = open_source(config["dataset"], run.task, run.split)
        return [source[index].image for index in range(min(IMAGES, len(source)))]
    except UserError:
        return []


def _untrained(spec: ModelSpec) -> VisionModel:
    """The network as the paper has it before training: with fresh weights, in every block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionModel(replace(spec, backbone={**spec.backbone, "zero_init_residual": False})).eval()
