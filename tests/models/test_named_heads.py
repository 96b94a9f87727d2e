"""A head with a name of its own predicts what it predicts under the name of its task, in every runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mbv2kit
from mbv2kit.errors import UserError
from mbv2kit.exporting.files import keep, open_for_check, write
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.torch_models import as_trained, folded, split
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Export
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting import SplitSession, plan_memory
from mbv2kit.structures import Classification, Detections, Prediction, Segmentation, Task
from tests.exporting.models import CLASSES, HEADS, noise
from tests.norms import randomize_norms

# Two heads of each task, one of them with a name of its own.
OWN: dict[str, Task] = {"kind": "classification", "detection_of_faces": "detection", "parts": "segmentation"}
TASKS: dict[str, Task] = {task: task for task in HEADS} | OWN


@pytest.fixture(scope="module")
def model() -> VisionModel:
    torch.manual_seed(0)
    heads: dict[str, dict[str, Any]] = {name: dict(HEADS[task]) for name, task in TASKS.items()}
    heads["detection_of_faces"] |= {"nms_iou": 0.3, "max_detections": 7}
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads=heads,
        class_names={name: CLASSES[task] for name, task in TASKS.items()},
        input=Preprocess((64, 64)),
        tasks=OWN,
    )
    built = VisionModel(spec).eval()
    randomize_norms(built)
    # Random heads name one class everywhere; this one names another.
    with torch.no_grad():
        built.state_dict()["heads.parts.classify.bias"][0] += 100
    return built


@pytest.fixture(scope="module")
def renamed(model: VisionModel) -> VisionModel:
    """The three heads with names of their own, called as their tasks."""
    spec = ModelSpec(
        backbone=model.spec.backbone,
        heads={task: model.spec.heads[name] for name, task in OWN.items()},
        class_names={task: model.class_names[name] for name, task in OWN.items()},
        input=model.spec.input,
    )
    other, state = VisionModel(spec).eval(), model.state_dict()
    names = {f"heads.{task}.": f"heads.{name}." for name, task in OWN.items()}
    other.load_state_dict(
        {
            key: state[next((key.replace(ours, theirs) for ours, theirs in names.items() if key.startswith(ours)), key)]
            for key in other.state_dict()
        }
    )
    return other


def same(one: Prediction, other: Prediction, tolerance: float = 0.0) -> bool:
    if isinstance(one, Classification):
        assert isinstance(other, Classification)
        return bool((one.class_ids == other.class_ids).all()) and np.allclose(one.scores, other.scores, 0, tolerance)
    if isinstance(one, Detections):
        assert isinstance(other, Detections)
        return one.boxes.shape == other.boxes.shape and np.allclose(one.boxes, other.boxes, 0, 100 * tolerance)
    assert isinstance(other, Segmentation)
    return bool((one.mask == other.mask).mean() >= 1 - tolerance)


def predictions(predictor: Predictor) -> list[dict[str, Prediction]]:
    images = np.stack(noise(2, (64, 64)))
    placements = [predictor.preprocess(image)[1] for image in images]
    return predictor.predict_inputs(images, placements)


def assert_named(found: list[dict[str, Prediction]], wanted: list[dict[str, Prediction]], tolerance: float = 0) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert list(ours) == list(TASKS)
        assert all(same(ours[name], theirs[task], tolerance) for name, task in OWN.items())
        # The two heads of a task are different ones.
        assert not any(same(ours[name], ours[task], tolerance) for name, task in OWN.items())


def test_the_description_has_the_task_of_a_name(model: VisionModel, renamed: VisionModel) -> None:
    values = model.spec.to_dict()
    assert values["tasks"] == OWN
    assert ModelSpec.from_dict(values).tasks == TASKS
    assert "tasks" not in renamed.spec.to_dict()
    with pytest.raises(UserError, match=r"heads\.kind: a head has the name of its task .*, or tasks\.kind names that"):
        ModelSpec.from_dict({**values, "tasks": {}})


def test_the_only_head_of_a_task_is_called_as_the_task(model: VisionModel) -> None:
    some = model.with_heads(["kind", "segmentation", "parts"])
    assert some.spec.tasks == {
        "classification": "classification",
        "segmentation": "segmentation",
        "parts": "segmentation",
    }
    ours, theirs = predictions(as_trained(model))[0], predictions(as_trained(some))[0]
    assert same(ours["kind"], theirs["classification"])
    assert same(ours["parts"], theirs["parts"])


def test_a_name_that_pytorch_uses_is_a_sentence(model: VisionModel) -> None:
    spec = model.spec
    with pytest.raises(UserError, match="A head cannot be called 'type', which has a meaning in PyTorch"):
        VisionModel(
            ModelSpec(
                backbone=spec.backbone,
                heads={"type": {"name": "classifier"}},
                class_names={"type": ("a", "b")},
                input=spec.input,
                tasks={"type": "classification"},
            )
        )


def test_torch_predicts_the_same(model: VisionModel, renamed: VisionModel) -> None:
    assert_named(predictions(as_trained(model)), predictions(as_trained(renamed)))
    assert_named(predictions(folded(model)), predictions(folded(renamed)), 1e-4)


def test_views_predict_the_same(model: VisionModel, renamed: VisionModel) -> None:
    views = ("multiscale_flip", (1.0,), True)
    assert_named(predictions(as_trained(model, *views)), predictions(as_trained(renamed, *views)))


def test_a_budget_of_memory_predicts_the_same(model: VisionModel, renamed: VisionModel) -> None:
    session = SplitSession(model, plan_memory(model, (64, 64), 150_000))
    assert_named(predictions(split(model, session)), predictions(folded(renamed)), 1e-3)


@pytest.mark.parametrize("nms", [False, True])
def test_an_exported_file_predicts_the_same(
    model: VisionModel, renamed: VisionModel, tmp_path: Path, nms: bool
) -> None:
    written = write(ExportNetwork(model), tmp_path, "onnx", "fp32", batch=1, nms=nms)
    found = "detection_of_faces_detections" if nms else "detection_of_faces_boxes"
    assert {"kind_probabilities", found, "parts_mask", "probabilities", "mask"} <= set(written.outputs)
    assert_named(predictions(open_for_check(model, tmp_path, written)), predictions(folded(renamed)), 1e-3)
    # The list of the folder has the options of both detectors.
    (tmp_path / "kept").mkdir()
    keep(written, tmp_path, tmp_path / "kept", model.spec)
    (read,) = ModelFolder(tmp_path / "kept").read_exports()
    assert read == written
    assert read.nms_options["detection_of_faces"].max_detections == 7
    assert Export.from_dict(written.to_dict()) == written


def test_results_of_two_heads_of_a_task_need_a_name(model: VisionModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    image = noise(1, (64, 64))[0]
    result = mbv2kit.load(tmp_path / "model")(image)
    with pytest.raises(AttributeError, match=r'write result\["detection"\]\.boxes'):
        result.boxes  # noqa: B018
    line = result.to_dict({"segmentation": "masks/a.png", "parts": "masks_parts/a.png"})
    assert line["tasks"] == list(HEADS)
    assert line["mask"] == "masks/a.png"
    assert line["heads"]["parts"]["mask"] == "masks_parts/a.png"
    assert list(line["heads"]) == list(OWN)
    assert (
        line["heads"]["detection_of_faces"]["boxes"]
        == result["detection_of_faces"].to_dict()["heads"]["detection_of_faces"]["boxes"]
    )
    assert result["kind"].task == "classification"
    assert repr(result["kind"]).startswith("Result(array, 64 x 64: ")
    # Labels in a drawing say whose they are: the drawing of both classifiers is taller than that of one.
    assert result.plot().shape[0] > result["classification"].plot().shape[0]


def test_both_detectors_boxes_are_classified(model: VisionModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    model.with_heads(["kind"]).save(tmp_path / "kinds")
    image = noise(1, (64, 64))[0]
    both = mbv2kit.load(tmp_path / "model")
    with pytest.raises(UserError, match="A second model must classify, but this one does classification and detection"):
        both.then(both)
    result = both.then(mbv2kit.load(tmp_path / "kinds"))(image)
    for head in ("detection", "detection_of_faces"):
        assert len(result[head].then_labels) == len(result[head].boxes) > 0
        assert set(result[head].then_labels) <= set(CLASSES["classification"])
