import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image

from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Task
from mbv2kit.weights.card import model_card
from mbv2kit.weights.published import origin

DIGEST = "0123456789abcdef" * 4
# Names with a special meaning in YAML, Markdown, HTML or a table.
AWKWARD = ("no", "1e3", "a: b # c", "x|y", "`tick`", "<b>bold</b>", "_under_", "two\nlines", "'\"", "- ä ☂", "", "${x}")
HEADS: dict[Task, str] = {"classification": "classifier", "detection": "ssdlite", "segmentation": "deeplab_v3"}


def spec(*tasks: Task, names: tuple[str, ...] = ("cat", "dog"), origin: Any = None, **options: Any) -> dict[str, Any]:
    return ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35, "padding": "tf_same"},
        heads={task: {"name": HEADS[task]} for task in tasks},
        class_names=dict.fromkeys(tasks, names),
        input=options.pop("input", Preprocess((224, 192))),
        origin=origin or {},
        **options,
    ).to_dict()


def metrics_of(task: Task = "classification", **changes: Any) -> dict[str, Any]:
    return {
        "task": task,
        "dataset": "folder",
        "split": "val",
        "images": 72,
        "seconds": 1.5,
        "metrics": {"top1": 0.875, "top5": 1.0},
        "per_class": {"cat": {"top1": 0.75, "images": 48}, "dog": {"top1": None, "images": 0}},
    } | changes


def head(card: str) -> dict[str, Any]:
    """Returns the header, which the Hub reads."""
    _, text, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def rows(card: str, title: str) -> list[list[str]]:
    """Returns the cells of all tables below a heading."""
    section = card.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_header_holds_what_the_hub_asks_for() -> None:
    values = head(model_card(spec("classification"), metrics_of(), "me/cats"))
    assert values == {
        "library_name": "mbv2kit",
        "pipeline_tag": "image-classification",
        "tags": ["mbv2kit", "mobilenet_v2", "classifier"],
        "model-index": [
            {
                "name": "cats",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": "folder", "type": "folder", "split": "val"},
                        "metrics": [
                            {"type": "accuracy", "name": "top1", "value": 0.875},
                            {"type": "top5", "name": "top5", "value": 1.0},
                        ],
                    }
                ],
            }
        ],
    }


def test_the_hubs_own_library_finds_the_metrics() -> None:
    metrics = metrics_of("segmentation", metrics={"mIoU": 0.5, "pixel_accuracy": None})
    found = ModelCard(model_card(spec("segmentation"), metrics, "me/cats")).data
    assert isinstance(found, ModelCardData)
    assert found.pipeline_tag == "image-segmentation"
    assert found.eval_results is not None
    (result,) = found.eval_results
    assert (result.task_type, result.dataset_name, result.dataset_split) == ("image-segmentation", "folder", "val")
    assert (result.metric_type, result.metric_name, result.metric_value) == ("mean_iou", "mIoU", 0.5)


@pytest.mark.parametrize(
    ("stated", "identifier"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("BSD-3-Clause", "bsd-3-clause"),
        ("The MIT License", "mit"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("not stated", "unknown"),
    ],
)
def test_a_license_that_the_hub_knows_gets_its_identifier(stated: str, identifier: str) -> None:
    values = head(model_card(spec("detection", origin={"licence": stated}), None, "me/cats"))
    assert values["license"] == identifier
    assert "license_name" not in values


def test_any_other_license_is_named() -> None:
    values = head(model_card(spec("detection", origin={"licence": "House Rules (v2): no dogs"}), None, "me/cats"))
    assert (values["license"], values["license_name"]) == ("other", "house-rules-v2-no-dogs")


def test_no_license_is_made_up_for_weights_that_started_from_nothing() -> None:
    values = head(model_card(spec("detection", origin={"made_by": "mbv2kit"}), None, "me/cats"))
    assert "license" not in values


def test_weights_are_bound_by_the_license_of_those_that_they_started_from() -> None:
    first = origin("net.tflite", sha256=DIGEST, license="cc-by-nc-4.0", background_class="none")
    second = {"made_by": "mbv2kit 0.1", "run": "monday", "epoch": 12, "started_from": first}
    third = {"made_by": "mbv2kit 0.2", "run": "friday", "weights": "moving average", "started_from": second}
    card = model_card(spec("classification", origin=third), None, "me/cats")
    assert head(card)["license"] == "cc-by-nc-4.0"
    facts = dict(rows(card, "Where the weights come from"))
    assert facts["`source`"] == "`net.tflite`"
    assert facts["`licence`"] == "`cc-by-nc-4.0`"
    assert facts["`sha256`"] == f"`{DIGEST}`"
    assert card.count("Training started from:") == 2
    assert card.index("friday") < card.index("monday") < card.index("net.tflite")


def test_weights_that_started_from_unknown_ones_say_so() -> None:
    card = model_card(spec("classification", origin={"run": "monday", "started_from": {}}), None, "me/cats")
    assert "Training started from:\n\nUnknown weights." in card


def test_a_converted_model_without_metrics_has_a_card() -> None:
    converted = origin(
        "torchvision:net", sha256=DIGEST, license="BSD-3-Clause", left_out=[f"aux.{i}" for i in range(101)]
    )
    card = model_card(spec("segmentation", origin=converted), None, "me/cats")
    assert head(card)["license"] == "bsd-3-clause"
    assert "model-index" not in head(card)
    assert rows(card, "Metrics") == []
    assert "`aux.0`, `aux.1`" in card
    assert "`aux.9` and 91 more, all in `model.json`" in card


def test_the_network_is_described_with_the_options_that_its_spec_leaves_out() -> None:
    description = spec("classification", mean=(127.5, 100.0, 0.0), std=(1.0, 2.5, 255.0))
    parts = dict(rows(model_card(description, None, "me/cats"), "The model"))
    assert parts["backbone"].startswith("`mobilenet_v2` with `width=0.35, output_stride=32, padding=tf_same, ")
    assert parts["head for classification"] == "`classifier` with `dropout=0.2, label_smoothing=0.0, background=false`"
    counted = sum(parameter.numel() for parameter in VisionModel(ModelSpec.from_dict(description)).parameters())
    assert parts["parameters"] == f"{counted:,}"
    assert parts["input"] == "224 x 192 pixels (height x width), RGB"
    assert (
        parts["normalization"] == "within the model: minus 127.5, 100, 0, divided by 1, 2.5, 255, for values in 0..255"
    )


@pytest.mark.parametrize(
    ("preprocess", "sentence"),
    [
        (Preprocess((224, 224), "crop", 0.875), "scaled to cover 256 x 256 pixels, then the center is cut out"),
        (Preprocess((224, 224), "stretch"), "stretched to that size, whatever the aspect ratio"),
        (
            Preprocess((513, 513), "pad", fill=128),
            "scaled down to fit if it is larger, in the top left corner; the rest ",
        ),
        (
            Preprocess((320, 320), "letterbox", fill=0),
            "scaled to fit, in the top left corner; the rest is filled with gray 0",
        ),
    ],
)
def test_the_resize_rule_is_described(preprocess: Preprocess, sentence: str) -> None:
    parts = dict(rows(model_card(spec("detection", input=preprocess), None, "me/cats"), "The model"))
    assert parts["resize rule"].startswith(f"`{preprocess.resize}`: {sentence}")


def test_a_trained_run_shows_its_metrics_overall_and_per_class() -> None:
    metrics = metrics_of(
        "detection",
        metrics={"AP": 0.4127, "APs": None},
        per_class={"cat": {"AP": 0.8254, "objects": 31}, "dog": {"AP": None, "objects": 0}},
    )
    card = model_card(spec("detection"), metrics, "me/cats")
    assert rows(card, "Metrics") == [
        ["AP", "APs"],
        ["0.413", "-"],
        ["class", "AP", "objects"],
        ["`cat`", "0.825", "31"],
        ["`dog`", "-", "0"],
    ]
    assert "the `72` images of the split `val` of the data set `folder`" in card
    (result,) = head(card)["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "AP", "name": "AP", "value": 0.4127}]


def test_metrics_that_could_not_be_measured_are_dashes() -> None:
    card = model_card(spec("detection"), metrics_of("detection", metrics={"AP": None}, per_class={}), "me/cats")
    assert "model-index" not in head(card)
    assert rows(card, "Metrics") == [["AP"], ["-"]]


def test_long_lists_of_classes_are_left_to_the_files() -> None:
    names = tuple(f"class {index}" for index in range(101))
    per_class = {name: {"top1": 0.5} for name in names}
    card = model_card(spec("classification", names=names), metrics_of(per_class=per_class), "me/cats")
    assert "101 of classification, by class id from 0: `class 0`, " in card
    assert "`class 9` and 91 more, all in `model.json`." in card
    assert "`class 10`" not in card
    assert "The metrics of each of the 101 classes are in `metrics.json`." in card


def test_awkward_names_stay_what_they_are() -> None:
    metrics = metrics_of(dataset="no: # |", split="1_000", per_class={name: {"top1": 0.5} for name in AWKWARD})
    description = spec("classification", names=AWKWARD, origin={"licence": "mit", "source": "a|b\n---\nlicense: gpl"})
    card = model_card(description, metrics, "me/no")
    values = head(card)
    assert values["license"] == "mit"
    assert values["model-index"][0]["name"] == "no"
    assert values["model-index"][0]["results"][0]["dataset"] == {"name": "no: # |", "type": "no: # |", "split": "1_000"}
    shown = [row[0] for row in rows(card, "Metrics")[3:]]
    assert len(shown) == len(AWKWARD)
    assert shown == [
        "`no`",
        "`1e3`",
        "`a: b # c`",
        "`x\\|y`",
        "`` `tick` ``",
        "`<b>bold</b>`",
        "`_under_`",
        "`two lines`",
        "`'\"`",
        "`- ä ☂`",
        "(empty)",
        "`${x}`",
    ]
    assert dict(rows(card, "Where the weights come from"))["`source`"] == "`a\\|b --- license: gpl`"


def test_a_code_may_hold_any_row_of_backticks() -> None:
    card = model_card(spec("classification", names=("a``b`c", "d")), None, "me/cats")
    assert "by class id from 0: ```a``b`c```, `d`." in card


def test_every_task_of_a_model_is_described() -> None:
    card = model_card(spec("segmentation", "classification", "detection"), None, "me/cats")
    values = head(card)
    assert values["pipeline_tag"] == "image-classification"
    assert values["tags"][-2:] == ["object-detection", "image-segmentation"]
    parts = dict(rows(card, "The model"))
    assert {f"head for {task}" for task in HEADS} <= parts.keys()


def test_the_lines_of_python_are_python_and_name_the_repository() -> None:
    card = model_card(spec("segmentation", "classification", "detection"), None, "me/cats")
    assert "mbv2kit infer photos/*.jpg checkpoint=hub:me/cats\n" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert 'mbv2kit.load("hub:me/cats")' in code
    assert code.count("print(") == 3


@pytest.mark.parametrize("tasks", [*((task,) for task in HEADS), tuple(HEADS)])
def test_the_snippet_of_the_card_runs(
    tasks: tuple[Task, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = spec(*tasks, input=Preprocess((64, 64)))
    VisionModel(ModelSpec.from_dict(content)).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 40)).save("photo.jpg")
    card = model_card(content, metrics_of(tasks[0]), "me/cats")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert 'mbv2kit.load("hub:me/cats")' in code
    exec(code.replace("hub:me/cats", "model"), {})
    assert len(capsys.readouterr().out) > 0


def test_metrics_of_several_tasks_stand_task_by_task() -> None:
    metrics = metrics_of(
        metrics={"mean": 0.5, "top1": 0.75, "AP": 0.25, "mIoU": None},
        per_class={
            "classification/cat": {"top1": 0.75, "images": 48},
            "detection/cat": {"AP": 0.25, "objects": 3},
            "segmentation/a/b": {"IoU": None, "pixels": 9},
        },
    )
    card = model_card(spec(*HEADS), metrics | {"task": "multitask"}, "me/all")
    results = head(card)["model-index"][0]["results"]
    assert [(result["task"]["type"], result["metrics"]) for result in results] == [
        ("image-classification", [{"type": "accuracy", "name": "top1", "value": 0.75}]),
        ("object-detection", [{"type": "AP", "name": "AP", "value": 0.25}]),
    ]
    assert rows(card, "Metrics") == [
        ["mean", "top1", "AP", "mIoU"],
        ["0.500", "0.750", "0.250", "-"],
        ["class of classification", "top1", "images"],
        ["`cat`", "0.750", "48"],
        ["class of detection", "AP", "objects"],
        ["`cat`", "0.250", "3"],
        ["class of segmentation", "IoU", "pixels"],
        ["`a/b`", "-", "9"],
    ]
