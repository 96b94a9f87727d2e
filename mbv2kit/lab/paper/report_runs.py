"""Finds evaluations on this machine and matches them with published accuracies."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mbv2kit.backbones.registry import BACKBONES
from mbv2kit.evaluation import model_in_brief
from mbv2kit.heads.registry import HEADS
from mbv2kit.lab.paper.cases import CASES, Case
from mbv2kit.lab.paper.published import Number
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.structures import Task

# The paper's data set for each task; accuracies on others cannot be compared.
DATASETS: Mapping[Task, str] = {"classification": "imagenet", "detection": "coco", "segmentation": "voc"}
# Column of the paper's tables -> name of the metric in metrics.json.
METRICS = {"top1": "top1", "top5": "top5", "mAP": "AP", "mIoU": "mIoU"}
# Options that affect training or postprocessing, but not the layers.
# fmt: off
NO_LAYERS = frozenset({
    "padding", "norm_eps", "norm_momentum", "zero_init_residual", "ceil_pooling", "dropout", "label_smoothing",
    "background", "class_weights", "min_scale", "max_scale", "first_scale", "match_iou", "score_threshold", "nms_iou",
    "max_detections", "anchors", "anchor_steps",
})
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An evaluation: its metrics and its model.

    Attributes:
        folder: Folder of ``metrics.json``.
        task: Task of the evaluation.
        dataset: Type of the data set, such as ``voc``.
        data: The same with the name of its folder, if known.
        split: Split of the data set.
        images: Number of images.
        metrics: Metrics in 0..1 by name; None for those that the data set does not support.
        tta: Test-time augmentation.
        model: Description by :func:`mbv2kit.evaluation.model_in_brief`.
        finished: Time of the evaluation, in seconds since the epoch.
    """

    folder: Path
    task: Task
    dataset: str
    data: str
    split: str
    images: int
    metrics: Mapping[str, float | None]
    tta: str
    model: Mapping[str, Any]
    finished: float


def find_runs(folder: Path) -> list[Run]:
    """Returns all evaluations below a folder, the newest first; skips damaged ones and those of unknown models."""
    runs = [run for path in sorted(folder.glob("**/metrics.json")) if (run := _read_run(path)) is not None]
    return sorted(runs, key=lambda run: run.finished, reverse=True)


def measured(number: Number, runs: Sequence[Run]) -> Run | None:
    """Returns the run with the network, input, task and data set of a published accuracy.

    If there are several, the one on the most images counts, then the newest.
    """
    case = CASES.get(f"{number.table}/{number.row}")
    if number.kind != "accuracy" or number.column not in METRICS or case is None:
        return None
    fitting = [run for run in runs if _fits(run, case) and run.metrics.get(METRICS[number.column]) is not None]
    return max(fitting, key=lambda run: (run.images, run.finished), default=None)


def _fits(run: Run, case: Case) -> bool:
    network = case.network
    if run.task != network.task or run.dataset != DATASETS[run.task]:
        return False
    backbone, head = run.model["backbone"], run.model["head"]
    paper_backbone = {"name": network.backbone, **dict(network.backbone_options)}
    paper_head = {"name": network.head, **dict(network.head_options)}
    return (
        backbone["name"] == network.backbone
        and head["name"] == network.head
        and run.model["classes"] == network.classes
        and _layers(BACKBONES.options(network.backbone), backbone)
        == _layers(BACKBONES.options(network.backbone), paper_backbone)
        and _layers(HEADS.options(network.head), head) == _layers(HEADS.options(network.head), paper_head)
        and tuple(run.model["input"]["size"]) == case.size
        and run.tta == ("multiscale_flip" if case.mirrored else "none")
    )


def _layers(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
    """Returns the options that define the layers, as text because JSON has no tuples."""
    return {key: json.dumps(options.get(key, value)) for key, value in defaults.items() if key not in NO_LAYERS}


def _read_run(path: Path) -> Run | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        model = content.get("model") or model_in_brief(
            json.loads(_description(path).read_text(encoding="utf-8")), content["task"]
        )
        run = Run(
            folder=path.parent,
            data=_data(path, content["dataset"]),
            tta=_tta(content),
            model=model,
            finished=path.stat().st_mtime,
            **{key: content[key] for key in ("task", "dataset", "split", "images", "metrics")},
        )
        # Reads everything that is used later, so that a damaged description fails here.
        named = run.model["backbone"]["name"], run.model["head"]["name"], run.model["input"]["size"]
        return run if all(named) and run.model["classes"] else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OmegaConfBaseException, YAMLError):
        return None


def _data(metrics: Path, dataset: str) -> str:
    """Returns the type of the data set and the name of its folder, which tells data sets of one type apart."""
    config = RunFolder(metrics.parent).config
    root = OmegaConf.load(config).dataset.get("root") if config.is_file() else None
    return f"{dataset} in {Path(root).name}" if root else dataset


def _description(metrics: Path) -> Path:
    """Returns the description of a run's model, or of the model folder that holds the metrics."""
    folder = ModelFolder(metrics.parent)
    return (folder if folder.exists else ModelFolder(RunFolder(metrics.parent).model)).description


def _tta(content: Mapping[str, Any]) -> str:
    """Returns the test-time augmentation of some metrics; that of other scales than usual is not the paper's."""
    usual = content.get("tta_scales") is None and content.get("tta_flip", True)
    return str(content.get("tta", "none")) if usual else "custom"
