"""The report's sections on trained networks: the ablations of Figure 6 and the activations of Figure 7."""

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

PAPER_VARIANT = ("linear", "bottleneck")
# Names of the variants by the backbone options (bottleneck, shortcut), the paper's best first.
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
    """Training runs that differ only in the variant of the block and the seed.

    Attributes:
        setting: Description of what they share.
        metric: Name of their main metric.
        variants: Curves of the runs by the options (bottleneck, shortcut).
    """

    setting: str
    metric: str
    variants: dict[tuple[str, str], list[Curve]]


def figure_6(data: ReportData) -> Section:
    """Section 6.4: learning curves of the ablations, if there are such runs."""
    title = data.tables["figure6"].title
    groups = _ablations(data.runs)
    blocks: list[str | Table | Illustration] = [
        "The paper trains the four variants on ImageNet and does not print final accuracies. Its curves rank the "
        "linear bottleneck above the one with ReLU6, and shortcuts between bottlenecks above those between expansions "
        "and above none.",
        numbers_table(data, "figure6"),
    ]
    for number, ablation in enumerate(groups, start=1):
        blocks.append(f"Runs by mbv2kit: {ablation.setting}.")
        for panel, names in PANELS.items():
            curves = {
                name: ablation.variants[variant] for variant, name in names.items() if variant in ablation.variants
            }
            if len(curves) < 2:
                continue
            path = data.images / f"figure_6{panel[-1]}_{number}.png"
            figures.figure_curves(curves, path, title=panel, measure=f"{ablation.metric} on validation images, %")
            blocks.append(Illustration(path, f"{panel} by mbv2kit: mean and range of the runs."))
            blocks.append(_final(curves, ablation.metric))
    if not groups:
        blocks.append(
            "The folder runs= contains no such runs. To make them, run mbv2kit train "
            "experiment=paper/ablation seed=0 dataset.root=DIR, then the same with paper/ablation_relu6, "
            "paper/ablation_expansions and paper/ablation_no_shortcut."
        )
    return Section(title, blocks)


def figure_7(data: ReportData) -> Section:
    """Appendix A: positive channels before and after training, for the newest run whose images are available."""
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
        columns = ["layer", ">channels", ">needed", ">positive, mean", ">positive, fewest", ">pixels with too few"]
        blocks += [
            Illustration(
                path, f"Figure 7 by mbv2kit: {run.folder}, {len(images)} images of {run.data}, split {run.split}."
            ),
            Table(columns=columns, rows=rows, title="After training"),
        ]
        break
    else:
        blocks.append("The folder runs= contains no run on mobilenet_v2 whose images are available.")
    return Section(data.tables["figure7"].title, blocks)


def _ablations(runs: Sequence[Run]) -> list[Ablation]:
    """Groups the runs that differ only in the variant of the block and the seed."""
    groups: dict[str, Ablation] = {}
    for run in runs:
        curve, config = _curve(run), _config(run)
        if curve is None or config is None or config["backbone"]["name"] != "mobilenet_v2":
            continue
        variant = config["backbone"].pop("bottleneck"), config["backbone"].pop("shortcut")
        key = json.dumps({name: value for name, value in config.items() if name not in ("seed", "run_dir", "resume")})
        group = groups.setdefault(key, Ablation(_shared_by(run, config), MAIN_METRIC[run.task], defaultdict(list)))
        group.variants[variant].append(curve)
    return [group for group in groups.values() if len(group.variants) > 1]


def _shared_by(run: Run, config: Mapping[str, Any]) -> str:
    height, width = config["input"]["size"]
    return (
        f"{run.task} on {run.data}, mobilenet_v2 of width {config['backbone']['width']}, "
        f"{height} x {width} pixels, {config['trainer']['max_epochs']} epochs"
    )


def _curve(run: Run) -> Curve | None:
    """Returns the main metric over the epochs, in percent; None if the run has no such table."""
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


def _final(curves: Mapping[str, Sequence[Curve]], metric: str) -> Table:
    rows = []
    for name, runs in curves.items():
        last = [values[-1] for _, values in runs]
        spread = f"{min(last):.1f} to {max(last):.1f}" if len(last) > 1 else ""
        rows.append([name, str(len(last)), f"{sum(last) / len(last):.1f}", spread])
    columns = ["variant, the paper's best first", ">runs", f">last {metric}, %", ">range"]
    return Table(columns=columns, rows=rows)


def _trained(run: Run) -> VisionModel | None:
    """Returns the model of a finished run of the paper's variant; None for other runs and damaged models."""
    backbone = run.model["backbone"]
    variant = backbone.get("bottleneck", "linear"), backbone.get("shortcut", "bottleneck")
    if backbone["name"] != "mobilenet_v2" or variant != PAPER_VARIANT or not RunFolder(run.folder).finished:
        return None
    try:
        return VisionModel.load(RunFolder(run.folder).model)
    except UserError:
        return None


def _images(run: Run) -> list[Image]:
    """Returns some images of the validation split; none if they are not on this machine."""
    config = _config(run)
    if config is None:
        return []
    try:
        source = open_source(config["dataset"], run.task, run.split)
        return [source[index].image for index in range(min(IMAGES, len(source)))]
    except UserError:
        return []


def _untrained(spec: ModelSpec) -> VisionModel:
    """Returns the network before training, without zero initialization of the residual branches, as in the paper."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionModel(replace(spec, backbone={**spec.backbone, "zero_init_residual": False})).eval()
