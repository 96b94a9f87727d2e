import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import cv2
import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.structures import Image
from mbv2kit.weights.tflite import read
from tests.norms import randomize_norms
from tests.weights.tflite_writer import Form, write_classifier


class LiteRT:
    """The file in the interpreter that it was made for."""

    def __init__(self, path: Path) -> None:
        self._run = Interpreter(str(path), num_threads=1)
        self._run.allocate_tensors()
        (self._input,), (self._output,) = self._run.get_input_details(), self._run.get_output_details()

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        self._run.set_tensor(self._input["index"], image[None])
        self._run.invoke()
        output: NDArray[Any] = self._run.get_tensor(self._output["index"])[0]
        return output.squeeze()


def random_model(backbone: str, width: float, size: int, classes: int = 7, **options: Any) -> VisionModel:
    """Returns a classifier in which every number has an effect."""
    spec = ModelSpec(
        backbone={"name": backbone, "width": width, **options},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": tuple(f"class_{k}" for k in range(classes))},
        input=Preprocess((size, size), "crop"),
    )
    model = VisionModel(spec).eval()
    randomize_norms(model)
    return model


def logits(model: VisionModel, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        values: NDArray[np.float32] = model(images_to_tensor([image]))["classification"]["logits"][0].numpy()
    return values


@pytest.mark.parametrize(
    ("backbone", "width", "size", "padding", "form", "options"),
    [
        ("mobilenet_v1", 0.25, 64, "tf_same", "float32", {}),
        ("mobilenet_v1", 1.0, 32, "tf_same", "float16", {"dense": True}),
        ("mobilenet_v1", 0.5, 49, "symmetric", "float32", {"pad": True}),
        ("mobilenet_v2", 0.35, 64, "tf_same", "float16", {}),
        ("mobilenet_v2", 0.35, 64, "tf_same", "float32", {"pad": True, "dense": True}),
        ("mobilenet_v2", 0.35, 66, "symmetric", "float32", {"pad": True}),
        ("mobilenet_v2", 1.0, 48, "symmetric", "float16", {"pad": True, "dense": True}),
        ("mobilenet_v2", 1.4, 33, "tf_same", "float32", {"dense": True}),
    ],
)
def test_a_float_file_predicts_as_in_its_interpreter(
    tmp_path: Path, backbone: str, width: float, size: int, padding: str, form: Form, options: dict[str, bool]
) -> None:
    model = random_model(backbone, width, size, padding=padding)
    path = tmp_path / "model.tflite"
    path.write_bytes(write_classifier(model, size, form, **options))
    published = read(path, "model.tflite")
    converted = published.build()
    assert converted.spec.backbone["width"] == width
    # If every size is odd, both ways of padding are the same, and a file with PAD says (1, 1).
    if size % 2 == 0:
        assert converted.spec.backbone["padding"] == padding
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    scores = LiteRT(path)((image.astype(np.float32) - 127.5) / 127.5)
    ours = logits(converted, image)
    assert np.ptp(ours) > 0.1
    np.testing.assert_allclose(torch.from_numpy(ours).softmax(dim=0).numpy(), scores, atol=1e-4)
    if form == "float32":
        np.testing.assert_allclose(ours, logits(model, image), atol=1e-4)


def test_integer_weights_are_scaled_back_channel_by_channel(tmp_path: Path) -> None:
    model = random_model("mobilenet_v2", 0.35, 32)
    with torch.no_grad():
        # Folded batch norms leave channels of very different magnitude.
        model.backbone.layers["layer_5"].expand.conv.weight[3] *= 100  # type: ignore[union-attr, operator, index]
    tensors = {}
    for form in ("float32", "int8 weights"):
        path = tmp_path / "model.tflite"
        path.write_bytes(write_classifier(model, 32, form))
        tensors[form] = read(path, "model.tflite").tensors
    for name, exact in tensors["float32"].items():
        coarse = tensors["int8 weights"][name]
        step = exact.flatten(1).abs().amax(dim=1) / 127 if exact.ndim > 1 else torch.zeros(len(exact))
        difference = (coarse - exact).abs().reshape(len(exact), -1).amax(dim=1)
        assert (difference <= step * 0.501 + 1e-7).all(), name


@pytest.mark.parametrize(("classes", "names", "background"), [(1000, 1000, False), (1001, 1000, True), (7, 7, False)])
def test_a_background_is_no_class(tmp_path: Path, classes: int, names: int, background: bool) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(write_classifier(random_model("mobilenet_v1", 0.25, 32, classes), 32))
    model = read(path, "model.tflite").build()
    assert len(model.class_names["classification"]) == names
    assert model.spec.heads["classification"]["background"] is background
    if names == 1000:
        assert model.class_names["classification"][:2] == ("tench", "goldfish")
    (prediction,) = as_trained(model).predict([np.zeros((40, 50, 3), dtype=np.uint8)])
    assert sorted(prediction.class_ids.tolist()) == list(range(names))


@pytest.mark.parametrize("outputs", [7, 1001])
def test_labels_that_are_packed_into_the_file_are_its_classes(tmp_path: Path, outputs: int) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(write_classifier(random_model("mobilenet_v1", 0.25, 32, outputs), 32))
    labels = ["Background", *(f"kind {k}" for k in range(1, outputs))]
    with ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "about")
        archive.writestr("labels.txt", "\n".join(labels) + "\n")
    names = read(path, "model.tflite").build().class_names["classification"]
    assert list(names) == (labels[1:] if outputs == 1001 else labels)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"kind 5\n", b"kind X\n"))
    with pytest.raises(UserError, match="its packed labels are damaged"):
        read(path, "model.tflite")


def test_packed_labels_that_expand_to_gigabytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(write_classifier(random_model("mobilenet_v1", 0.25, 32, 7), 32))
    with ZipFile(path, "a", ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", b"\n" * 5_000_000)
    with pytest.raises(UserError, match=r"its packed labels are damaged \(labels\.txt has more than 1,000,000 bytes\)"):
        read(path, "model.tflite")


def test_packed_labels_are_bounded_all_together(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(write_classifier(random_model("mobilenet_v1", 0.25, 32, 7), 32))
    with ZipFile(path, "a", ZIP_DEFLATED) as archive:
        for name in ("a.txt", "b.txt"):
            archive.writestr(name, b"\n" * 600_000)
    with pytest.raises(UserError, match=r"its packed labels are damaged \(b\.txt has more than 400,000 bytes\)"):
        read(path, "model.tflite")


# The real files -------------------------------------------------------------------------------------------------------

CLASSIFIERS = {
    "mobilenet_v1_0.25_128_quant": ("mobilenet_v1", 0.25, 128, 0.51),
    "mobilenet_v1_0.5_160_quant": ("mobilenet_v1", 0.5, 160, 0.72),
    "mobilenet_v1_0.75_192_quant": ("mobilenet_v1", 0.75, 192, 0.82),
    "mobilenet_v2_1.0_224_quant": ("mobilenet_v2", 1.0, 224, 0.88),
}


def averaged_crop(image: Image, preprocess: Preprocess) -> Image:
    """Makes an input by averaging over areas, so that the comparison does not depend on the resizing here."""
    (height, width), (rows, columns) = image.shape[:2], preprocess.size
    scale = max(rows / height, columns / width) / preprocess.crop_fraction
    size = max(rows, round(height * scale)), max(columns, round(width * scale))
    kind = cv2.INTER_AREA if size[0] * size[1] < height * width else cv2.INTER_LINEAR
    scaled = cv2.resize(image, size[::-1], interpolation=kind)
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    return np.ascontiguousarray(scaled[top : top + rows, left : left + columns], dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_published_classifier_predicts_as_its_interpreter(shared_data: Path, name: str) -> None:
    backbone, width, size, expected = CLASSIFIERS[name]
    path = shared_data / "weights" / f"{name}.tflite"
    model = read(path, path.name).build()
    assert (model.spec.backbone["name"], model.spec.backbone["width"]) == (backbone, width)
    assert model.spec.backbone["padding"] == "tf_same"
    assert (model.spec.mean, model.spec.std) == ((128.0,) * 3, (128.0,) * 3)
    assert model.preprocess.size == (size, size)
    litert = LiteRT(path)
    folder = shared_data / "imagenet_samples"
    ids = [line.split("\t")[0] for line in (folder / "synsets.txt").read_text().splitlines()]
    images = sorted((folder / "val").rglob("*.JPEG"))
    ground_truth = np.array([ids.index(original.parent.name) for original in images])
    theirs, ours = [], []
    for original in images:
        image = averaged_crop(decode(original), model.preprocess)
        theirs.append(litert(image)[1:].argmax())
        ours.append(logits(model, image)[1:].argmax())
    assert len(images) == 200
    top1, own_top1 = np.mean(theirs == ground_truth), np.mean(ours == ground_truth)
    assert top1 == pytest.approx(expected, abs=0.011)
    assert abs(own_top1 - top1) <= 0.01 + 1e-9
    assert np.mean(np.array(ours) == np.array(theirs)) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), [("mnv2", 1.0), ("mnv2_dm05", 0.5)])
def test_a_published_deeplab_predicts_as_its_interpreter(shared_data: Path, name: str, width: float) -> None:
    path = shared_data / "weights" / f"deeplabv3_{name}_pascal_quant.tflite"
    model = read(path, path.name).build()
    assert model.spec.backbone["width"] == width
    assert model.spec.backbone["output_stride"] == 16
    assert model.preprocess == Preprocess((513, 513), "letterbox", fill=128)
    litert = LiteRT(path)
    names = model.class_names["segmentation"]
    same, found = [], {}
    for original in sorted((shared_data / "images").iterdir()):
        image, placement = model.preprocess(decode(original))
        with torch.inference_mode():
            raw = model(images_to_tensor([image]))
        (prediction,) = model.heads["segmentation"].decode(raw["segmentation"], (513, 513))
        height, width_ = placement.content
        mask = prediction.mask[:height, :width_]  # type: ignore[union-attr]
        same.append(np.mean(mask == litert(image)[:height, :width_]))
        found[original.stem] = {names[k] for k in np.unique(mask) if np.mean(mask == k) > 0.05}
    assert len(same) == 8
    assert min(same) >= 0.97
    assert "cat" in found["cat"] & found["cat_1080p"]
    assert "bird" in found["bird"] & found["owl"]
    assert "person" in found["grace_hopper"]
    assert "dog" in found["pets"]


# Damaged files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> bytes:
    torch.manual_seed(0)
    return write_classifier(random_model("mobilenet_v1", 0.25, 32), 32)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_damage_is_a_user_error(good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(good)
    # The tables with the offsets; between them are weights.
    structure = [k for k in range(8, len(content)) if k < 2_000 or k > len(content) - 30_000]
    for position in data.draw(st.lists(st.sampled_from(structure), min_size=1, max_size=30)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.tflite"
    path.write_bytes(content)
    # Damage may hit unused bytes; any exception but UserError fails the test.
    with suppress(UserError):
        read(path, "model.tflite").build()


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(good: bytes, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(good[: int(len(good) * share)])
    with pytest.raises(UserError, match=r"cut\.tflite"):
        read(path, "cut.tflite")


def test_the_missing_package_is_named(good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.tflite").write_bytes(good)
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(UserError, match=r"needs the package tflite; install it with: pip install 'mbv2kit\[weights\]'"):
        read(tmp_path / "model.tflite", "model.tflite")


def test_broken_offsets_are_refused(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes((0x7FFFFFF0).to_bytes(4, "little") + good[4:])
    with pytest.raises(UserError, match=r"broken\.tflite is damaged or was cut short"):
        read(path, "broken.tflite")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = random_model("mobilenet_v1", 0.25, 32)
    with torch.no_grad():
        model.heads["classification"].linear.bias[2] = float("nan")  # type: ignore[union-attr, operator]
    path = tmp_path / "model.tflite"
    path.write_bytes(write_classifier(model, 32))
    with pytest.raises(UserError, match=r"the constant 'bias' holds numbers that are not finite"):
        read(path, "model.tflite")


def test_another_network_is_refused(tmp_path: Path) -> None:
    model = random_model("mobilenet_v2", 0.35, 32, bottleneck="relu6")
    path = tmp_path / "model.tflite"
    path.write_bytes(write_classifier(model, 32))
    with pytest.raises(
        UserError, match=r"its layer 'layer_2/project' has .* activation relu6, but layer_2\.project of"
    ):
        read(path, "model.tflite")
    deep = random_model("mobilenet_v2", 0.35, 32, depth=1.5)
    path.write_bytes(write_classifier(deep, 32))
    with pytest.raises(UserError, match=r"an unknown network of \d+ layers, \d+ depthwise; known are classifiers on"):
        read(path, "model.tflite")
    with pytest.raises(UserError, match="that mbv2kit exported runs only in its model folder"):
        read(path, "model.tflite")
