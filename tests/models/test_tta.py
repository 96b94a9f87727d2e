import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image as PillowImage
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.errors import UserError
from mbv2kit.evaluation.run import evaluate
from mbv2kit.heads import HEADS, Head
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.inference.loading import Request, load
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.run import infer
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.model_session import ModelSession
from mbv2kit.models.session import Session
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.tta import DETECTION_SCALES, SCALES, MultiScaleFlip, scaled_side
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS, Classification, Detections, Prediction, Segmentation, Task
from mbv2kit.training.parts import training_parts
from mbv2kit.training.run import train
from tests.norms import randomize_norms

SIZE = (65, 97)
NAMES: dict[str, tuple[str, ...]] = {
    "classification": ("cat", "dog", "emu"),
    "detection": ("cat", "dog"),
    "segmentation": ("background", "cat", "dog"),
}
HEAD: dict[str, dict[str, Any]] = {
    "classification": {"name": "classifier"},
    "detection": {"name": "ssdlite", "score_threshold": 0.0, "max_detections": 20},
    "segmentation": {"name": "deeplab_v3", "channels": 32},
}


def model_for(*tasks: Task, size: tuple[int, int] = SIZE) -> VisionModel:
    """An untrained model whose norms have seen something, and whose answers differ from place to place."""
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={task: HEAD[task] for task in tasks},
        class_names={task: NAMES[task] for task in tasks},
        input=Preprocess(size),
    )
    model = VisionModel(spec).eval()
    randomize_norms(model)
    if "segmentation" in tasks:
        classify = model.heads["segmentation"].classify
        assert isinstance(classify, nn.Conv2d)
        with torch.no_grad():
            classify.weight.mul_(100)
            classify.bias -= model(inputs(size=size))["segmentation"]["logits"].mean(dim=(0, 2, 3))
    return model


def inputs(count: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    """Smooth noise: what is left of an image at half its size."""
    coarse = torch.rand(count, 3, 9, 11) * 255
    return F.interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)


def untouched(count: int = 2, size: tuple[int, int] = SIZE) -> list[Placement]:
    return [Placement(size, size)] * count


def predict(
    model: VisionModel, session: Session, images: Tensor, placements: list[Placement]
) -> list[dict[str, Prediction]]:
    predictor = Predictor(model.spec, lambda _: session, nms_options=model.nms_options)
    return predictor.predict_inputs(images.permute(0, 2, 3, 1).numpy(), placements)


def assert_equal(found: Prediction, expected: Prediction) -> None:
    if isinstance(expected, Segmentation):
        assert isinstance(found, Segmentation)
        np.testing.assert_array_equal(found.mask, expected.mask)
        return
    assert isinstance(found, type(expected))
    assert isinstance(found, Classification | Detections)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
    if isinstance(found, Detections):
        assert isinstance(expected, Detections)
        np.testing.assert_array_equal(found.boxes, expected.boxes)


# The sizes.


def test_the_sizes_of_513_pixels_are_deeplab_s() -> None:
    assert [scaled_side(513, scale) for scale in SCALES] == [257, 385, 513, 641, 769, 897]
    assert [scaled_side(321, scale) for scale in SCALES] == [161, 241, 321, 401, 481, 561]


def test_other_sizes_are_multiples_of_32() -> None:
    assert [scaled_side(224, scale) for scale in SCALES] == [128, 160, 224, 288, 352, 384]
    assert [scaled_side(320, scale) for scale in SCALES] == [160, 256, 320, 416, 480, 576]
    assert [scaled_side(300, scale) for scale in SCALES] == [160, 224, 300, 384, 448, 512]
    assert scaled_side(20, 0.5) == 32


def test_the_network_sees_every_size_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_for("segmentation")
    seen: list[tuple[int, ...]] = []
    forward = model.forward

    def watch(images: Tensor) -> Any:
        seen.append(tuple(images.shape))
        assert images.dtype == torch.uint8
        return forward(images)

    monkeypatch.setattr(model, "forward", watch)
    predict(model, MultiScaleFlip(model), inputs(), untouched())
    sizes = [(33, 49), (49, 73), (65, 97), (81, 121), (97, 145), (113, 169)]
    assert seen == [(2, 3, *size) for size in sizes for _ in range(2)]


# One view is the model.


@pytest.mark.parametrize("tasks", [*((task,) for task in TASKS), TASKS])
def test_one_scale_without_mirroring_is_the_plain_model(tasks: tuple[Task, ...]) -> None:
    model = model_for(*tasks)
    placements = [Placement((130, 194), SIZE), Placement((60, 90), (60, 90))]
    images = inputs()
    plain = predict(model, ModelSession(model), images, placements)
    seen = predict(model, MultiScaleFlip(model, scales=(1.0,), flip=False), images, placements)
    for found, expected in zip(seen, plain, strict=True):
        assert found.keys() == expected.keys() == set(tasks)
        for task in tasks:
            assert_equal(found[task], expected[task])


def test_images_come_in_by_the_model_s_own_rule() -> None:
    model = model_for("segmentation", "classification")
    tta = as_trained(model, "multiscale_flip")
    assert (tta.preprocess, tta.class_names) == (model.preprocess, model.class_names)
    arrays = [np.random.default_rng(side).integers(0, 256, (side, 70, 3), dtype=np.uint8) for side in (40, 90)]
    made = [tta.preprocess(array) for array in arrays]
    images = torch.from_numpy(np.stack([image for image, _ in made])).permute(0, 3, 1, 2)
    by_hand = predict(model, MultiScaleFlip(model), images, [placement for _, placement in made])
    for found, expected, array in zip(tta.predict(arrays), by_hand, arrays, strict=True):
        assert found["segmentation"].mask.shape == array.shape[:2]
        for task in ("segmentation", "classification"):
            assert_equal(found.predictions[task], expected[task])
    assert tta.predict([]) == []


def test_without_augmentation_each_image_goes_through_once() -> None:
    model = model_for("classification")
    images = inputs()
    (plain,) = as_trained(model).predict([images[0].permute(1, 2, 0).numpy()])
    (expected,) = predict(model, ModelSession(model), images[:1], untouched(1))
    assert_equal(plain.predictions["classification"], expected["classification"])


# What is averaged.


def views_of(images: Tensor) -> list[tuple[Tensor, bool]]:
    """The twelve views, made once more in the plainest way."""
    views = []
    for mirrored in (True, False):
        for scale in SCALES:
            view = torch.flip(images, (3,)).float() if mirrored else images.float()
            size = [int((side - 1) * scale + 1) for side in images.shape[2:]]
            if size != list(images.shape[2:]):
                view = F.interpolate(view, size, mode="bilinear", antialias=True)
            views.append((view.round().to(torch.uint8), mirrored))
    return views


@torch.no_grad()
def test_the_mask_is_that_of_the_mean_probabilities() -> None:
    model, images = model_for("segmentation"), inputs()
    total = torch.zeros(2, 3, *SIZE, dtype=torch.float64)
    for view, mirrored in views_of(images):
        logits = model(view)["segmentation"]["logits"]
        shown = F.interpolate(logits, SIZE, mode="bilinear", align_corners=True).double().softmax(dim=1)
        total += shown.flip(3) if mirrored else shown
    torch.testing.assert_close((total / 12).sum(dim=1), torch.ones(2, *SIZE, dtype=torch.float64))
    best, second = total.topk(2, dim=1).values.unbind(dim=1)
    clear = (best - second) > 1e-5
    assert clear.double().mean() > 0.99
    for i, found in enumerate(predict(model, MultiScaleFlip(model), images, untouched())):
        mask = found["segmentation"]
        assert isinstance(mask, Segmentation)
        assert len(np.unique(mask.mask)) > 1
        np.testing.assert_array_equal(mask.mask[clear[i]], total[i].argmax(dim=0).numpy()[clear[i]])


@torch.no_grad()
def test_classes_have_the_mean_of_their_probabilities() -> None:
    model, images = model_for("classification"), inputs()
    views = [model(view)["classification"]["logits"].softmax(dim=1) for view, _ in views_of(images)]
    mean = torch.stack(views).mean(dim=0).numpy()
    for i, found in enumerate(predict(model, MultiScaleFlip(model), images, untouched())):
        classes = found["classification"]
        assert isinstance(classes, Classification)
        assert classes.class_ids.tolist() == np.argsort(-mean[i]).tolist()
        np.testing.assert_allclose(classes.scores, mean[i][classes.class_ids], atol=1e-6)
        assert classes.scores.sum() == pytest.approx(1, abs=1e-6)


def test_a_plain_image_is_plain_in_every_view_and_its_answer_lies_between_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_for("classification", "segmentation")
    shades: list[list[int]] = []
    raws: list[Tensor] = []
    forward = model.forward

    def watch(images: Tensor) -> Any:
        shades.append(np.unique(images.numpy()).tolist())
        raw = forward(images)
        raws.append(raw["classification"]["logits"][0].softmax(dim=0))
        return raw

    monkeypatch.setattr(model, "forward", watch)
    (found,) = predict(model, MultiScaleFlip(model), torch.full((1, 3, *SIZE), 101, dtype=torch.uint8), untouched(1))
    assert shades == [[101]] * 12
    classes, mask = found["classification"], found["segmentation"]
    assert isinstance(classes, Classification)
    assert isinstance(mask, Segmentation)
    views = torch.stack(raws)[:, torch.from_numpy(classes.class_ids)].numpy()
    assert (views.min(axis=0) - 1e-6 <= classes.scores).all()
    assert (classes.scores <= views.max(axis=0) + 1e-6).all()
    np.testing.assert_array_equal(mask.mask, mask.mask[:, ::-1])


# Mirroring.


def test_a_mirrored_image_has_exactly_the_mirrored_mask() -> None:
    model, images = model_for("segmentation"), inputs()
    seen = predict(model, MultiScaleFlip(model), images, untouched())
    mirrored = predict(model, MultiScaleFlip(model), images.flip(3), untouched())
    for left, right in zip(seen, mirrored, strict=True):
        assert isinstance(left["segmentation"], Segmentation)
        assert isinstance(right["segmentation"], Segmentation)
        np.testing.assert_array_equal(left["segmentation"].mask[:, ::-1], right["segmentation"].mask)


def test_a_mirrored_image_has_the_mirrored_boxes() -> None:
    size = (96, 128)
    model, images = model_for("detection", size=size), inputs(size=size)
    seen = predict(model, MultiScaleFlip(model), images, untouched(size=size))
    mirrored = predict(model, MultiScaleFlip(model), images.flip(3), untouched(size=size))
    for left, right in zip(seen, mirrored, strict=True):
        here, there = left["detection"], right["detection"]
        assert isinstance(here, Detections)
        assert isinstance(there, Detections)
        assert len(here.boxes) == len(there.boxes) == 20
        np.testing.assert_array_equal(here.class_ids, there.class_ids)
        np.testing.assert_allclose(here.scores, there.scores, atol=1e-6)
        back = np.stack([128 - there.boxes[:, 2], there.boxes[:, 1], 128 - there.boxes[:, 0], there.boxes[:, 3]], 1)
        np.testing.assert_allclose(here.boxes, back, atol=1e-3)


# Boxes.


class Left(Head):
    """Sees one object on the left of everything, with a score that depends on the width of the view."""

    task = "detection"
    scores: ClassVar[dict[int, float]] = {}

    def __init__(self, feature_info: Any, num_classes: int, nms_iou: float = 0.5, max_detections: int = 3) -> None:
        super().__init__()
        self.features = (feature_info[0].name,)
        self.nms_options = NmsOptions(0.1, nms_iou, max_detections)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"seen": next(iter(features.values()))}

    def loss(self, raw: Any, targets: Any) -> dict[str, Tensor]:
        return {}

    def outputs(self, raw: Any, size: tuple[int, int]) -> dict[str, Tensor]:
        score, count = self.scores.get(size[1], 0.5), len(raw["seen"])
        box, scores = torch.tensor([[[0.1, 0.25, 0.3, 0.75]]]), torch.tensor([[[0.0, score]]])
        return {"boxes": box.expand(count, -1, -1), "scores": scores.expand(count, -1, -1)}


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch, add_part: Callable[..., None]) -> VisionModel:
    """A model that sees the same in every view."""
    add_part(HEADS, "left", Left)
    monkeypatch.setattr(Left, "scores", {128: 0.8})
    spec = replace(model_for("detection").spec, heads={"detection": {"name": "left"}}, input=Preprocess((64, 128)))
    return VisionModel(spec).eval()


def test_boxes_of_all_views_are_joined_in_pixels_of_the_input_and_suppressed_again(blind: VisionModel) -> None:
    size = (64, 128)
    (found,) = predict(blind, MultiScaleFlip(blind), inputs(1, size), [Placement((128, 256), size)])
    boxes = found["detection"]
    assert isinstance(boxes, Detections)
    # Six boxes on two places, in pixels of the image: of each the mean score over all views, half of which show it.
    np.testing.assert_allclose(boxes.scores, [0.3, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(boxes.class_ids, [1, 1])
    expected = [[25.6, 32, 76.8, 96], [179.2, 32, 230.4, 96]]
    np.testing.assert_allclose(sorted(boxes.boxes.tolist()), expected, rtol=1e-5)


def test_the_head_s_own_options_rule_the_fused_boxes(blind: VisionModel) -> None:
    blind = VisionModel(replace(blind.spec, heads={"detection": {"name": "left", "nms_iou": 1.0}})).eval()
    size = (64, 128)
    (found,) = predict(blind, MultiScaleFlip(blind), inputs(1, size), untouched(1, size))
    boxes = found["detection"]
    assert isinstance(boxes, Detections)
    assert len(boxes.boxes) == 3, "max_detections"


def test_a_size_that_the_network_cannot_see_is_a_sentence() -> None:
    spec = model_for("detection").spec
    spec = replace(
        spec, backbone={"name": "vgg16"}, heads={"detection": {"name": "ssd300"}}, input=Preprocess((300, 300))
    )
    with torch.device("meta"):
        model = VisionModel(spec).eval()
    images = torch.zeros(1, 3, 300, 300, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"tta=multiscale_flip also uses inputs of 224 x 224 pixels: ssd300 and ssd512"):
        predict(model, MultiScaleFlip(model), images, untouched(1, (300, 300)))


def test_masks_that_cannot_be_averaged_are_a_sentence(add_part: Callable[..., None]) -> None:
    class Fixed(Left):
        task = "segmentation"  # type: ignore[assignment]

    add_part(HEADS, "fixed", Fixed)
    spec = replace(model_for("segmentation").spec, heads={"segmentation": {"name": "fixed"}})
    with pytest.raises(UserError, match="cannot average the masks of head 'fixed'; set tta=none"):
        MultiScaleFlip(VisionModel(spec))


@pytest.mark.parametrize("head", ["ssdlite", "yolo_v2"])
def test_anchors_keep_their_pixels_in_a_view_of_another_size(head: str) -> None:
    spec = replace(model_for("detection").spec, heads={"detection": {"name": head}}, input=Preprocess((64, 64)))
    model = VisionModel(spec).eval()
    found = model.heads["detection"]
    sizes = []
    for side in (64, 128):
        with torch.no_grad():
            raw = model(inputs(1, (side, side)))["detection"]
        raw["box_codes"] = torch.zeros_like(raw["box_codes"])
        # A head without codes returns its anchors.
        boxes = found.outputs(found.at_scale(raw, (side / 64, side / 64)), (side, side))["boxes"][0].numpy() * side
        sizes.append({tuple(each) for each in np.round(boxes[:, 2:] - boxes[:, :2], 2).tolist()})
    assert sizes[0] == sizes[1]
    plain = {name: tensor for name, tensor in raw.items() if name != "anchors"}
    unchanged = found.at_scale(raw, (1.0, 1.0))
    torch.testing.assert_close(unchanged["anchors"], raw["anchors"])
    assert all(unchanged[name] is tensor for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("keys", "scales", "flip"),
    [
        ([], None, True),
        (["tta.scales=[1,1.5]"], [1, 1.5], True),
        (["tta.scales=[1.25]", "tta.flip=false"], [1.25], False),
    ],
)
def test_the_keys_choose_the_views(
    tool: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keys: list[str],
    scales: list[float] | None,
    flip: bool,
) -> None:
    model = model_for("detection", size=(64, 64))
    model.save(tmp_path / "model")
    PillowImage.new("RGB", (40, 20)).save(tmp_path / "a.png")
    seen: list[tuple[int, int]] = []
    forward = VisionModel.forward

    def watched(self: VisionModel, images: Tensor) -> Any:
        seen.append((images.shape[2], images.shape[3]))
        return forward(self, images)

    monkeypatch.setattr(VisionModel, "forward", watched)
    assert infer(tool("infer", "checkpoint=model", "output=out", "tta=multiscale_flip", *keys), ["a.png"]) == 0
    sides = dict.fromkeys(scaled_side(64, scale) for scale in scales or DETECTION_SCALES)
    assert seen == [(side, side) for side in sides for _ in range(1 + flip)]


@pytest.mark.parametrize("scales", ["[]", "[0]", "[-1]", "[100]", "[.nan]", "[a]", "2"])
def test_scales_that_are_none_are_a_sentence(tool: Callable[..., DictConfig], tmp_path: Path, scales: str) -> None:
    model_for("classification").save(tmp_path / "model")
    PillowImage.new("RGB", (40, 20)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"tta\.scales"):
        infer(tool("infer", "checkpoint=model", "output=out", "tta=multiscale_flip", f"tta.scales={scales}"), ["a.png"])


def test_views_are_chosen_for_the_augmentation_that_has_them(tool: Callable[..., DictConfig]) -> None:
    for key in ("tta.scales=[1]", "tta.flip=false"):
        with pytest.raises(UserError, match=r"tta\.scales and tta\.flip choose the views of tta=multiscale_flip"):
            evaluate(tool("eval", "checkpoint=nowhere", "dataset=shapes", key))


# The tools.


@pytest.fixture
def tool(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """Composes a tool's configuration; what runs then runs in an empty folder."""
    register_parts(root / "conf", training_parts())
    monkeypatch.chdir(tmp_path)
    return lambda name, *overrides: compose_config(root / "conf", name, overrides)


@pytest.mark.parametrize("name", ["eval", "infer"])
def test_the_tools_see_every_image_once_unless_told_otherwise(tool: Callable[..., DictConfig], name: str) -> None:
    assert tool(name).tta.name == "none"


@pytest.mark.parametrize(
    ("value", "hint"),
    [("multiscale", "Did you mean 'multiscale_flip'?"), ("7", "Known: "), ("null", "Known: ")],
)
def test_an_unknown_augmentation_is_told_before_a_model_is_read(
    tool: Callable[..., DictConfig], tmp_path: Path, value: str, hint: str
) -> None:
    model_for("classification").save(tmp_path / "model")
    PillowImage.new("RGB", (40, 20)).save(tmp_path / "a.png")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="tta") as told:
        evaluate(tool("eval", f"tta={value}", "checkpoint=nowhere", "dataset=shapes"))
    assert hint in str(told.value)
    with pytest.raises(UserError, match="tta"):
        infer(tool("infer", f"tta={value}", "checkpoint=nowhere"), ["a.png"])
    assert sorted(tmp_path.iterdir()) == before


def test_inference_takes_the_augmented_model(tool: Callable[..., DictConfig], tmp_path: Path) -> None:
    model = model_for("segmentation")
    model.save(tmp_path / "model")
    image = inputs(1)[0].permute(1, 2, 0).numpy()
    PillowImage.fromarray(image).save(tmp_path / "a.png")
    assert load(Request(checkpoint="model")).predictor.runtime == "torch"
    assert infer(tool("infer", "checkpoint=model", "output=out", "tta=multiscale_flip"), ["a.png"]) == 0
    (expected,) = as_trained(model, "multiscale_flip").predict([image])
    with PillowImage.open(tmp_path / "out" / "masks" / "a.png") as mask:
        assert_equal(Segmentation(np.array(mask)), expected.predictions["segmentation"])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_trained_run_can_be_evaluated_at_many_scales(
    tool: Callable[..., DictConfig], task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    small = (
        f"task={task} input.size=[65,65] backbone.width=0.35 dataset.size=64 dataset.train_count=16 "
        "dataset.val_count=4 loader.batch_size=4 loader.workers=0 trainer.max_epochs=1 "
        "trainer.progress_bar=false export=false run_dir=run"
    )
    train(tool("train", *small.split()))
    evaluate(tool("eval", "checkpoint=run", "loader.workers=0", "tta=multiscale_flip", "run_dir=tta"))
    assert "with tta=multiscale_flip" in caplog.text
    plain, many = (json.loads(Path(folder, "metrics.json").read_text()) for folder in ("run", "tta"))
    assert plain["metrics"].keys() == many["metrics"].keys()
    assert many["images"] == 4
    assert len(list(Path("tta", "predictions").iterdir())) == 5
