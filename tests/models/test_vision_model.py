import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.spec import SCHEMA_VERSION, ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.structures import Classification, Detections, Image, Segmentation, Task
from tests.norms import randomize_norms

NAMES: dict[Task, tuple[str, ...]] = {
    "classification": ("cat", "dog", "emu"),
    "detection": ("cat", "dog"),
    "segmentation": ("background", "cat", "dög"),
}
HEADS: dict[Task, dict[str, Any]] = {
    "classification": {"name": "classifier", "dropout": 0.1},
    "detection": {"name": "ssdlite", "anchors": "uniform", "score_threshold": 0.0, "max_detections": 5},
    "segmentation": {"name": "deeplab_v3", "channels": 16, "class_weights": [1.0, 2.0, 3.0]},
}
SIZE = (64, 96)


def spec_for(*tasks: Task, resize: Any = "stretch") -> ModelSpec:
    return ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={task: HEADS[task] for task in tasks},
        class_names={task: NAMES[task] for task in tasks},
        input=Preprocess(SIZE, resize=resize),
        mean=(120.0, 110.0, 100.0),
        std=(60.0, 50.0, 40.0),
        origin={"run": "outputs/x", "metrics": {"AP": 0.5}},
    )


def model_for(*tasks: Task, resize: Any = "stretch") -> VisionModel:
    """A model in evaluation mode whose norms have seen something."""
    model = VisionModel(spec_for(*tasks, resize=resize)).eval()
    randomize_norms(model)
    return model


def inputs(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8)


def make_image(height: int, width: int) -> Image:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_same(found: Mapping[str, Mapping[str, Tensor]], expected: Mapping[str, Mapping[str, Tensor]]) -> None:
    assert found.keys() == expected.keys()
    for task, raw in expected.items():
        assert found[task].keys() == raw.keys()
        for name, values in raw.items():
            assert torch.equal(found[task][name], values), f"{task}: {name}"


def test_a_spec_survives_json() -> None:
    spec = spec_for("classification", "detection", "segmentation")
    values = spec.to_dict()
    assert values["schema_version"] == SCHEMA_VERSION
    assert ModelSpec.from_dict(values) == spec
    assert ModelSpec.from_dict(json.loads(json.dumps(values))) == spec


def test_a_saved_model_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    model = model_for("classification", "detection", "segmentation")
    model.save(tmp_path / "new" / "model")
    again = VisionModel.load(tmp_path / "new" / "model")
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == ["model.json", "model.safetensors"]
    assert again.spec == model.spec
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, values in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], values), name
    images = inputs()
    with torch.no_grad():
        assert_same(again(images), model(images))


def test_saving_does_not_depend_on_the_memory_layout(tmp_path: Path) -> None:
    model = model_for("segmentation")
    model.save(tmp_path / "before")
    model.to(memory_format=torch.channels_last).save(tmp_path / "after")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after"))
    for name, values in before.items():
        assert torch.equal(after[name], values), name


def test_saving_again_replaces_what_was_there(tmp_path: Path) -> None:
    model_for("classification").save(tmp_path)
    model_for("detection").save(tmp_path)
    assert list(VisionModel.load(tmp_path).heads) == ["detection"]


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Returns what changes the description in a folder."""

    def apply(folder: Path) -> None:
        values = json.loads((folder / "model.json").read_text())
        change(values)
        (folder / "model.json").write_text(json.dumps(values))

    return apply


def cut_weights(folder: Path, share: float) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(len(data) * share)])


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["heads.classification.linear.bias"]
    save_file(weights, folder / "model.safetensors")


def truncate_to_whole_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["heads.classification.linear.bias"] = weights["heads.classification.linear.bias"].to(torch.int8)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (lambda folder: (folder / "model.json").unlink(), "", "no model folder: it has no model.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "", "no model folder: it has no model.safetensors"),
        (lambda folder: (folder / "model.json").write_text("{"), "model.json", "does not describe a model"),
        (lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe"), "model.json", "does not describe a model"),
        (lambda folder: (folder / "model.json").write_text("[1]"), "model.json", "does not describe a model"),
        (lambda folder: (folder / "model.json").write_text("{}"), "model.json", "'schema_version'"),
        (edit(lambda v: v.update(schema_version=99)), "model.json", "schema version 99; this mbv2kit reads 1"),
        (edit(lambda v: v.pop("heads")), "model.json", "'heads'"),
        (edit(lambda v: v.update(heads={})), "model.json", "does not describe a model"),
        (edit(lambda v: v.update(mean=[1.0])), "model.json", "does not describe a model"),
        (edit(lambda v: v["input"].update(color=1)), "model.json", "color"),
        (edit(lambda v: v["input"].update(resize="strech")), "model.json", "Did you mean 'stretch'?"),
        (edit(lambda v: v["backbone"].update(name="mobilenet_v9")), "model.json", "Did you mean 'mobilenet_v2'?"),
        (edit(lambda v: v["class_names"].clear()), "model.json", "class_names must be"),
        (edit(lambda v: v["backbone"].update(width=0.5)), "model.safetensors", "size mismatch"),
        (edit(lambda v: v["class_names"]["classification"].append("fox")), "model.safetensors", "size mismatch"),
        (lambda folder: cut_weights(folder, 0.5), "model.safetensors", "does not fit model.json"),
        (lambda folder: cut_weights(folder, 0.0), "model.safetensors", "does not fit model.json"),
        (drop_a_weight, "model.safetensors", "heads.classification.linear.bias"),
        (truncate_to_whole_numbers, "model.safetensors", "linear.bias' is torch.int8, expected torch.float32"),
    ],
)
def test_a_damaged_folder_is_refused_by_the_name_of_the_file(
    tmp_path: Path, damage: Callable[[Path], object], file: str, reason: str
) -> None:
    model_for("classification").save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError) as error:
        VisionModel.load(tmp_path)
    assert str(tmp_path / file) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_head_under_the_name_of_another_task_is_refused() -> None:
    spec = replace(spec_for("detection"), heads={"detection": {"name": "classifier"}})
    with pytest.raises(UserError, match="head 'classifier' does classification, but task is detection"):
        VisionModel(spec)


def test_heads_share_one_run_of_the_backbone_and_do_as_they_do_alone() -> None:
    model = model_for("classification", "detection", "segmentation")
    runs: list[int] = []
    model.backbone.register_forward_hook(lambda *_: runs.append(1))
    images = inputs()
    with torch.no_grad():
        together = model(images)
        assert len(runs) == 1
        for task in NAMES:
            alone = VisionModel(spec_for(task)).eval()
            missing, _ = alone.load_state_dict(model.state_dict(), strict=False)
            assert not missing
            assert_same(alone(images), {task: together[task]})


def test_only_what_the_heads_read_is_kept_of_the_backbone() -> None:
    whole = VisionModel(spec_for("classification"))
    part = VisionModel(spec_for("segmentation"))
    assert "layer_19" in dict(whole.backbone.get_submodule("layers").named_children())
    assert "layer_19" not in dict(part.backbone.get_submodule("layers").named_children())
    assert list(part.backbone(torch.zeros(2, 3, 64, 64))) == ["layer_18"]


def test_normalization_is_part_of_the_model() -> None:
    model = model_for("classification")
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    images = inputs()
    model(images)
    mean, std = np.array([120.0, 110.0, 100.0]), np.array([60.0, 50.0, 40.0])
    expected = (images.numpy().transpose(0, 2, 3, 1) - mean) / std
    np.testing.assert_allclose(seen[0].numpy().transpose(0, 2, 3, 1), expected, rtol=1e-5, atol=1e-6)
    assert seen[0].dtype == torch.float32


def test_images_become_a_batch_of_planes() -> None:
    make_images = [make_image(5, 7), 255 - make_image(5, 7)]
    batch = images_to_tensor(make_images)
    assert batch.shape == (2, 3, 5, 7)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch[1, 2, 4, 6].item() == make_images[1][4, 6, 2]


def test_raw_tensors_of_training_can_be_decoded() -> None:
    model = model_for("classification", "detection", "segmentation").train()
    raw = model(inputs())
    assert raw["detection"]["class_logits"].requires_grad
    predictions = {task: head.decode(raw[task], SIZE) for task, head in model.heads.items()}
    assert {task: len(found) for task, found in predictions.items()} == dict.fromkeys(NAMES, 2)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "pad", "crop"])
def test_predictions_are_in_the_pixels_of_each_image(resize: str) -> None:
    model = model_for("classification", "detection", "segmentation", resize=resize)
    make_images = [make_image(50, 200), make_image(120, 90), make_image(*SIZE)]
    found = as_trained(model).predict(make_images)
    assert len(found) == 3
    for image, result in zip(make_images, found, strict=True):
        height, width = image.shape[:2]
        classification, detections, segmentation = (result.predictions[task] for task in NAMES)
        assert isinstance(classification, Classification)
        assert isinstance(detections, Detections)
        assert isinstance(segmentation, Segmentation)
        assert sorted(classification.class_ids.tolist()) == [0, 1, 2]
        assert segmentation.mask.shape == (height, width)
        assert 0 < len(detections.boxes) <= 5
        assert detections.boxes.min() >= 0
        assert (detections.boxes <= [width, height, width, height]).all()


def test_an_image_is_seen_alike_alone_and_in_company() -> None:
    model = model_for("classification", "segmentation")
    make_images = [make_image(50, 200), make_image(120, 90)]
    together = as_trained(model).predict(make_images)
    for image, expected in zip(make_images, together, strict=True):
        (alone,) = as_trained(model).predict([image])
        scores, others = (result.predictions["classification"] for result in (alone, expected))
        assert isinstance(scores, Classification)
        assert isinstance(others, Classification)
        np.testing.assert_allclose(scores.scores, others.scores, rtol=1e-4)
        masks = [result.predictions["segmentation"] for result in (alone, expected)]
        assert isinstance(masks[0], Segmentation)
        assert isinstance(masks[1], Segmentation)
        assert (masks[0].mask == masks[1].mask).mean() > 0.999


def test_no_images_give_no_predictions() -> None:
    assert as_trained(model_for("classification")).predict([]) == []


def test_boxes_are_carried_from_the_input_to_the_image() -> None:
    """A head that always sees the same box: the left half of what the network saw."""
    model = model_for("detection", resize="letterbox")
    raw = {
        "class_logits": torch.tensor([[[0.0, 9.0, 0.0]]]),
        "box_codes": torch.zeros(1, 1, 4),
        "anchors": torch.tensor([[0.0, 0.0, 0.5, 1.0]]),
    }
    model.heads["detection"].forward = lambda features: raw  # type: ignore[method-assign]
    # 32 x 96 pixels are content of an image of 100 x 300.
    placement = Placement((100, 300), (32, 96))
    (found,) = as_trained(model).predict_inputs(inputs(1).permute(0, 2, 3, 1).numpy(), [placement])
    boxes = found["detection"]
    assert isinstance(boxes, Detections)
    np.testing.assert_allclose(boxes.boxes[0], [0, 0, 150, 100], atol=1e-3)


def test_another_output_stride_is_the_same_network_on_a_finer_map() -> None:
    model = model_for("segmentation")
    finer = model.at_output_stride(8)
    assert finer.spec.backbone["output_stride"] == 8
    assert not finer.training
    images = ((inputs(1).float() - model.mean) / model.std)[:, :, :64, :96]
    coarse, fine = (one.backbone(images)["layer_18"] for one in (model, finer))
    assert fine.shape[2:] == (8, 12)
    torch.testing.assert_close(fine[..., ::4, ::4], coarse, rtol=1e-4, atol=1e-4)
    assert model.spec.backbone.get("output_stride", 32) == 32
    with pytest.raises(UserError, match=r"output_stride must be .* 8, 16, 32, got 7"):
        model.at_output_stride(7)
