"""Writes the model card of a model folder and its metrics: the README.md that the Hugging Face Hub reads."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import yaml

from mbv2kit.backbones.registry import BACKBONES
from mbv2kit.heads.registry import HEADS
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.folder import DESCRIPTION_FILE
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import MULTITASK, TASKS, Task
from mbv2kit.texts import markdown_code, markdown_text, shown

# The Hub's name of each task, and what a model of that task does.
_PIPELINES: Mapping[Task, str] = {
    "classification": "image-classification",
    "detection": "object-detection",
    "segmentation": "image-segmentation",
}
_PURPOSES: Mapping[Task, str] = {
    "classification": "names the class of an image",
    "detection": "finds the objects in an image",
    "segmentation": "names the class of every pixel of an image",
}
_PRINTED: Mapping[Task, str] = {
    "classification": "print({result}.top(5))",
    "detection": "print({result}.labels, {result}.scores, {result}.boxes)",
    "segmentation": "print({result}.fractions, {result}.mask)",
}

# The task of each metric of a model of several tasks; the others are of detection. The Hub knows no mean of tasks.
_TASKS_OF_METRICS: Mapping[str, Task | None] = {
    "mean": None,
    "top1": "classification",
    "top5": "classification",
    "mIoU": "segmentation",
    "pixel_accuracy": "segmentation",
}
# Metrics that have another name on the Hub; the others keep their name.
_HUB_METRICS = {"top1": "accuracy", "mIoU": "mean_iou"}

# The Hub's identifiers of licenses that weights come under (its documentation, "Licenses").
# fmt: off
_LICENSES = frozenset({
    "apache-2.0", "mit", "isc", "zlib", "unlicense", "wtfpl", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "afl-3.0", "artistic-2.0", "ncsa", "ms-pl", "mpl-2.0", "epl-1.0", "epl-2.0",
    "eupl-1.1", "osl-3.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "openrail", "cc",
    "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "odbl", "odc-by", "pddl", "unknown",
})
# fmt: on
_NOT_STATED = "not stated"
_BAR, _ESCAPED_BAR = re.compile(r"(?<!\\)\|"), r"\\|"

# Longer lists are cut; the files that are published with the card hold all of them.
_LONG_LIST = 100
_START = 10


def model_card(description: Mapping[str, Any], metrics: Mapping[str, Any] | None, repository: str) -> str:
    """Writes the card of a model.

    Args:
        description: The content of ``model.json``.
        metrics: The content of ``metrics.json``; None if there is none.
        repository: ``OWNER/NAME`` on the Hub.

    Returns:
        Markdown after a header in YAML.
    """
    spec = ModelSpec.from_dict(description)
    tasks = [task for task in TASKS if task in spec.tasks.values()]
    origins = list(_origins(spec.origin))
    name = repository.rpartition("/")[2]
    head = yaml.safe_dump(_head(spec, tasks, origins, metrics, name), sort_keys=False, allow_unicode=True)
    heads = sorted(spec.heads, key=lambda each: TASKS.index(spec.tasks[each]))
    sections = [
        f"---\n{head}---",
        f"# {name}",
        f"A model of mbv2kit, a vision toolkit around MobileNetV2. It {', '.join(_PURPOSES[task] for task in tasks)}.",
        *_model(spec, heads),
        *_classes(spec, heads),
        *_provenance(origins),
        *_metrics(metrics, heads),
        *_usage(spec, heads, repository),
    ]
    return "\n\n".join(sections) + "\n"


def _origins(origin: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yields the origin of the weights, then of those that their training started from, and so on."""
    yield {key: value for key, value in origin.items() if key != "started_from"}
    if isinstance(origin.get("started_from"), Mapping):
        yield from _origins(origin["started_from"])


def _head(
    spec: ModelSpec,
    tasks: Sequence[Task],
    origins: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any] | None,
    name: str,
) -> dict[str, Any]:
    parts = dict.fromkeys([spec.backbone["name"], *(head["name"] for head in spec.heads.values())])
    return {
        **_license(origins),
        "library_name": "mbv2kit",
        "pipeline_tag": _PIPELINES[tasks[0]],
        "tags": ["mbv2kit", *parts, *(_PIPELINES[task] for task in tasks[1:])],
        **_model_index(spec, metrics, name),
    }


def _license(origins: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the license of the newest weights that state one, which binds all weights trained from them."""
    stated = next((str(origin["licence"]) for origin in origins if origin.get("licence")), None)
    if stated is None:
        return {}
    if stated == _NOT_STATED:
        return {"license": "unknown"}
    words = re.sub(r"\b(licen[cs]e|version|the)\b|[^a-z0-9.]", " ", stated.lower()).split()
    identifier = "-".join(words)
    if identifier in _LICENSES:
        return {"license": identifier}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", stated.lower()).strip("-") or "unnamed"}


def _model_index(spec: ModelSpec, metrics: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    if metrics is None:
        return {}
    values: dict[Task, list[dict[str, Any]]] = {}
    for key, value in metrics["metrics"].items():
        task = metrics["task"] if metrics["task"] != MULTITASK else _task_of(spec, key)
        if value is not None and task is not None:
            values.setdefault(task, []).append({"type": shown(_hub_metric(key)), "name": shown(key), "value": value})
    dataset = shown(str(metrics["dataset"]))
    results = [
        {
            "task": {"type": _PIPELINES[task]},
            "dataset": {"name": dataset, "type": dataset, "split": shown(str(metrics["split"]))},
            "metrics": values[task],
        }
        for task in TASKS
        if task in values
    ]
    return {"model-index": [{"name": name, "results": results}]} if results else {}


def _hub_metric(metric: str) -> str:
    """Returns the Hub's name of a metric, which may have the name of a head in front."""
    bare = metric.rpartition("/")[2]
    return _HUB_METRICS.get(bare, bare)


def _task_of(spec: ModelSpec, metric: str) -> Task | None:
    """Returns the task of a metric of a model of several heads; None for their mean."""
    head, _, _ = metric.rpartition("/")
    return spec.tasks[head] if head in spec.tasks else _TASKS_OF_METRICS.get(metric, "detection")


def _model(spec: ModelSpec, names: Sequence[str]) -> list[str]:
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in VisionModel(spec).parameters())
    backbone = BACKBONES.options(spec.backbone["name"]) | dict(spec.backbone)
    heads = {name: HEADS.options(spec.heads[name]["name"]) | dict(spec.heads[name]) for name in names}
    height, width = spec.input.size
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    rows = [
        ("backbone", _options(backbone)),
        *((f"head for {_described(spec, name)}", _options(heads[name])) for name in names),
        ("parameters", f"{parameters:,}"),
        ("input", f"{height} x {width} pixels (height x width), RGB"),
        ("resize rule", f"{markdown_code(spec.input.resize)}: {_resize(spec.input)}"),
        ("normalization", f"within the model: minus {mean}, divided by {std}, for values in 0..255"),
    ]
    return ["## The model", _table(("part", "description"), rows)]


def _options(options: Mapping[str, Any]) -> str:
    arguments = ", ".join(f"{key}={_value(value)}" for key, value in options.items() if key != "name")
    return f"{markdown_code(options['name'])} with {markdown_code(arguments)}"


def _resize(preprocess: Preprocess) -> str:
    height, width = preprocess.size
    if preprocess.resize == "crop":
        sides = f"{round(height / preprocess.crop_fraction)} x {round(width / preprocess.crop_fraction)}"
        return f"scaled to cover {sides} pixels, then the center is cut out"
    if preprocess.resize == "stretch":
        return "stretched to that size, whatever the aspect ratio"
    scaled = "scaled to fit" if preprocess.resize == "letterbox" else "scaled down to fit if it is larger"
    return f"{scaled}, in the top left corner; the rest is filled with gray {preprocess.fill}"


def _described(spec: ModelSpec, head: str) -> str:
    """Returns the task of a head, with the name that it has of its own."""
    task = spec.tasks[head]
    return task if head == task else f"{task} called {head}"


def _classes(spec: ModelSpec, heads: Sequence[str]) -> Iterator[str]:
    yield "## Classes"
    for head in heads:
        names = spec.class_names[head]
        yield f"{len(names)} of {_described(spec, head)}, by class id from 0: {_names(names)}."


def _provenance(origins: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Where the weights come from"
    for step, origin in enumerate(origins):
        if step > 0:
            yield "Training started from:"
        if origin:
            yield _table(("key", "value"), [(markdown_code(key), _known(origin[key])) for key in origin])
        else:
            yield "Unknown weights."


def _known(value: Any) -> str:
    return _names(value) if isinstance(value, list | tuple) and value else markdown_code(_value(value))


def _metrics(metrics: Mapping[str, Any] | None, heads: Sequence[str]) -> Iterator[str]:
    yield "## Metrics"
    if metrics is None:
        yield "None yet; `mbv2kit eval` measures them."
        return
    facts = {key: markdown_code(_value(metrics[key])) for key in ("task", "images", "split", "dataset")}
    named = f" (head {markdown_code(shown(str(metrics['head'])))})" if "head" in metrics else ""
    yield (
        f"Task {facts['task']}{named}, measured on the {facts['images']} images of the split {facts['split']} of the "
        f"data set {facts['dataset']}; fractions are in 0..1."
    )
    yield _table([*map(markdown_text, metrics["metrics"])], [[_number(value) for value in metrics["metrics"].values()]])
    several = metrics["task"] == MULTITASK
    for head in heads if several else (metrics["task"],):
        prefix = f"{head}/" if several else ""
        classes = {
            name.removeprefix(prefix): its for name, its in metrics["per_class"].items() if name.startswith(prefix)
        }
        if classes:
            yield _class_table(classes, f" of {head}" if several else "")


def _class_table(classes: Mapping[str, Mapping[str, Any]], of_task: str) -> str:
    if len(classes) > _LONG_LIST:
        return f"The metrics of each of the {len(classes)} classes{of_task} are in `metrics.json`."
    columns = list(next(iter(classes.values())))
    rows = [[markdown_code(name), *(_number(values.get(key)) for key in columns)] for name, values in classes.items()]
    return _table((f"class{of_task}", *map(markdown_text, columns)), rows)


def _usage(spec: ModelSpec, heads: Sequence[str], repository: str) -> Iterator[str]:
    yield "## How to use it"
    yield "With mbv2kit and its support for the Hub, `pip install 'mbv2kit[weights]'`:"
    yield f"```\nmbv2kit infer photos/*.jpg checkpoint=hub:{repository}\n```"
    # A model of one head needs none to be named.
    results = {head: "result" if len(heads) == 1 else f'result["{head}"]' for head in heads}
    printed = "\n".join(_PRINTED[spec.tasks[head]].format(result=result) for head, result in results.items())
    yield f"""```python
import mbv2kit

result = mbv2kit.load("hub:{repository}")("photo.jpg")
{printed}
```"""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    # A bar ends a cell, even within code, unless a backslash is before it.
    return "\n".join(f"| {' | '.join(_BAR.sub(_ESCAPED_BAR, cell) for cell in line)} |" for line in lines)


def _names(names: Iterable[Any]) -> str:
    codes = [markdown_code(_value(name)) for name in names]
    if len(codes) <= _LONG_LIST:
        return ", ".join(codes)
    return f"{', '.join(codes[:_START])} and {len(codes) - _START} more, all in `{DESCRIPTION_FILE}`"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
