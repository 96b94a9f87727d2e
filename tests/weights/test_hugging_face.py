import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    MobileNetV1Config,
    MobileNetV1ForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    MobileNetV2ForSemanticSegmentation,
    MobileNetV2ImageProcessor,
    MobileNetV2Model,
    PreTrainedModel,
)

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decode
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.weights.class_names import imagenet_classes, voc_classes
from mbv2kit.weights.hub_folder import read_config
from mbv2kit.weights.hugging_face import read_folder, recognizes
from mbv2kit.weights.tensor_files import sha256_of
from tests.norms import randomize_norms
from tests.trap import Trap

SIZES = [(224, 224), (225, 193), (97, 131)]
SEGMENTATION_SIZES = [(129, 129), (225, 193)]


def randomized(network: PreTrainedModel) -> PreTrainedModel:
    """Gives every number of a network an effect, with logits of order one."""
    randomize_norms(network)
    for name, part in network.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            # With statistics of other data, signals and rounding errors grow from block to block.
            part.momentum = 1.0
        elif isinstance(part, nn.Conv2d | nn.Linear) and "classifier" in name:
            nn.init.normal_(part.weight, std=0.02)
            assert part.bias is not None
            nn.init.normal_(part.bias, std=0.5)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    network.train()(torch.randn(4, 3, 96, 96))
    network.train(False)
    return network


def v1(**options: Any) -> PreTrainedModel:
    return randomized(MobileNetV1ForImageClassification(MobileNetV1Config(**options)))


def v2(**options: Any) -> PreTrainedModel:
    return randomized(MobileNetV2ForImageClassification(MobileNetV2Config(**options)))


def segmenter(**options: Any) -> PreTrainedModel:
    return randomized(MobileNetV2ForSemanticSegmentation(MobileNetV2Config(**options)))


def save(network: PreTrainedModel, folder: Path) -> Path:
    network.save_pretrained(folder)
    return folder


def edit(path: Path, **values: Any) -> None:
    """Changes a JSON file; None drops a key."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in (content | values).items() if value is not None}))


def largest_difference(model: VisionModel, network: PreTrainedModel, images: Tensor) -> float:
    """Compares the logits of uint8 images; the original gets them in -1..1, as from its processor."""
    with torch.inference_mode():
        expected = network(images / 127.5 - 1).logits
        (raw,) = model(images).values()
    assert 0.2 < expected.std() < 5
    assert raw["logits"].shape == expected.shape
    return float((raw["logits"] - expected).abs().max())


def noise(size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)


@pytest.mark.parametrize("tf_padding", [True, False])
@pytest.mark.parametrize(
    ("build", "width", "outputs"),
    [
        (v1, 0.25, 1000),
        (v1, 0.5, 7),
        (v1, 0.75, 1001),
        (v1, 1.0, 1001),
        (v2, 0.35, 1001),
        (v2, 0.5, 1000),
        (v2, 0.75, 7),
        (v2, 1.0, 1001),
        (v2, 1.3, 1000),
        (v2, 1.4, 1001),
    ],
)
def test_the_logits_of_classifiers_are_transformers(
    build: Callable[..., PreTrainedModel], width: float, outputs: int, tf_padding: bool, tmp_path: Path
) -> None:
    network = build(depth_multiplier=width, num_labels=outputs, tf_padding=tf_padding)
    published = read_folder(save(network, tmp_path), "google/mobilenet")
    assert published.left_out == []
    model = published.build()
    assert set(published.tensors) == set(model.state_dict())
    for size in SIZES:
        assert largest_difference(model, network, noise(size)) <= 1e-4


@pytest.mark.parametrize(
    ("width", "output_stride", "outputs", "tf_padding"),
    [(1.0, 16, 21, True), (1.0, 8, 7, True), (0.5, 16, 7, False), (0.5, 8, 21, True), (1.0, 32, 7, True)],
)
def test_the_logits_of_segmentation_are_transformers(
    width: float, output_stride: int, outputs: int, tf_padding: bool, tmp_path: Path
) -> None:
    network = segmenter(depth_multiplier=width, output_stride=output_stride, num_labels=outputs, tf_padding=tf_padding)
    published = read_folder(save(network, tmp_path), "google/deeplabv3")
    # The last layer of the backbone, which segmentation does not use.
    assert {name.split(".")[1] for name in published.left_out} == {"conv_1x1"}
    assert len(published.left_out) == 6
    model = published.build()
    assert set(published.tensors) == set(model.state_dict())
    for size in SEGMENTATION_SIZES:
        assert largest_difference(model, network, noise(size)) <= 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 16},
        {"output_stride": 8, "depth_multiplier": 0.35},
        {"finegrained_output": False, "depth_multiplier": 0.5},
        {"layer_norm_eps": 0.1},
    ],
)
def test_options_of_the_backbone_are_followed(options: dict[str, Any], tmp_path: Path) -> None:
    network = v2(num_labels=9, **options)
    model = read_folder(save(network, tmp_path), "mine").build()
    for size in SIZES:
        assert largest_difference(model, network, noise(size)) <= 1e-4


@pytest.mark.parametrize("build", [v1, v2, segmenter])
def test_the_logits_of_real_images_are_transformers(
    build: Callable[..., PreTrainedModel], shared_data: Path, tmp_path: Path
) -> None:
    images = [decode(path) for path in sorted((shared_data / "images").glob("*.bmp"))]
    assert len(images) >= 3
    network = build(num_labels=21)
    model = read_folder(save(network, tmp_path), "mine").build()
    inputs = images_to_tensor([model.preprocess(image)[0] for image in images])
    assert largest_difference(model, network, inputs) <= 1e-4


def test_preprocessing_and_classes_come_with_the_weights(tmp_path: Path) -> None:
    labels = {0: "background", **dict(enumerate(imagenet_classes(), start=1))}
    save(v2(depth_multiplier=0.75, id2label=labels, image_size=160), tmp_path)
    MobileNetV2ImageProcessor(crop_size={"height": 160, "width": 160}, size={"shortest_edge": 192}).save_pretrained(
        tmp_path
    )
    (tmp_path / "README.md").write_text("---\nlicense: other\ntags:\n- vision\n---\n\n# MobileNet V2\n")
    spec = read_folder(tmp_path, "hub:google/mobilenet_v2_0.75_160").spec
    assert spec.backbone == {
        "name": "mobilenet_v2",
        "width": 0.75,
        "padding": "tf_same",
        "norm_eps": 1e-3,
        "output_stride": 32,
        "shrink_last": False,
    }
    assert spec.heads == {"classification": {"name": "classifier", "dropout": 0.2, "background": True}}
    assert spec.class_names == {"classification": imagenet_classes()}
    assert spec.mean == spec.std == (127.5, 127.5, 127.5)
    assert (spec.input.size, spec.input.resize) == ((160, 160), "crop")
    assert 160 / spec.input.crop_fraction == pytest.approx(192)
    found = dict(spec.origin)
    assert found.pop("converted_by").startswith("mbv2kit ")
    assert found == {
        "source": "hub:google/mobilenet_v2_0.75_160",
        "sha256": sha256_of(tmp_path / "model.safetensors"),
        "licence": "other",
        "background_class": "first output",
    }


def test_a_segmentation_network_pads_its_images_and_keeps_its_background(tmp_path: Path) -> None:
    save(segmenter(num_labels=21, output_stride=16), tmp_path)
    MobileNetV2ImageProcessor(crop_size={"height": 513, "width": 513}, size={"shortest_edge": 545}).save_pretrained(
        tmp_path
    )
    spec = read_folder(tmp_path, "mine").spec
    assert (spec.input.size, spec.input.resize) == ((513, 513), "pad")
    assert spec.class_names == {"segmentation": voc_classes()}
    assert spec.origin["background_class"] == "none"
    assert spec.heads == {
        "segmentation": {
            "name": "deeplab_v3",
            "aspp": False,
            "align_corners": True,
            "dropout": 0.2,
            "norm_eps": 1e-5,
        }
    }


def test_mobilenet_v1_keeps_nearly_all_of_the_classifiers_input(tmp_path: Path) -> None:
    spec = read_folder(save(v1(num_labels=3), tmp_path), "mine").spec
    assert spec.heads["classification"]["dropout"] == 0.001
    assert spec.backbone == {"name": "mobilenet_v1", "width": 1.0, "padding": "tf_same", "norm_eps": 1e-3}


@pytest.mark.parametrize(("given", "share"), [(0.8, 0.2), (0.2, 0.2), (0.0, 0.0), (1.0, 0.0), (0.5, 0.5)])
def test_dropout_is_the_smaller_fraction(given: float, share: float, tmp_path: Path) -> None:
    save(v1(num_labels=3, depth_multiplier=0.25, classifier_dropout_prob=given), tmp_path)
    assert read_folder(tmp_path, "mine").spec.heads["classification"]["dropout"] == share


@pytest.mark.parametrize(
    ("labels", "names", "background"),
    [
        (["tabby", "boxer"], ("tabby", "boxer"), False),
        (["background", "boxer"], ("background", "boxer"), False),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ("class_0", "class_1", "class_2"), False),
        ([f"LABEL_{index}" for index in range(1001)], imagenet_classes(), True),
        ([f"LABEL_{index}" for index in range(1000)], imagenet_classes(), False),
        ([f"kind {index}" for index in range(1001)], tuple(f"kind {index}" for index in range(1001)), False),
    ],
)
def test_class_names_are_those_of_the_labels(
    labels: list[str], names: tuple[str, ...], background: bool, tmp_path: Path
) -> None:
    save(v1(depth_multiplier=0.25, id2label=dict(enumerate(labels))), tmp_path)
    spec = read_folder(tmp_path, "mine").spec
    assert tuple(spec.class_names["classification"]) == names
    assert spec.heads["classification"]["background"] == background
    assert spec.origin["background_class"] == ("first output" if background else "none")


def test_a_configuration_without_labels_has_classes_by_their_number(tmp_path: Path) -> None:
    save(v1(depth_multiplier=0.25, num_labels=4), tmp_path)
    edit(tmp_path / "config.json", id2label=None)
    assert list(read_folder(tmp_path, "mine").spec.class_names["classification"]) == [f"class_{k}" for k in range(4)]


def test_without_a_preprocessor_images_are_preprocessed_as_for_the_published_models(tmp_path: Path) -> None:
    spec = read_folder(save(v1(depth_multiplier=0.25, num_labels=4, image_size=192), tmp_path), "mine").spec
    assert (spec.input.size, spec.input.resize) == ((192, 192), "crop")
    assert 192 / spec.input.crop_fraction == pytest.approx(224)
    assert spec.mean == spec.std == (127.5, 127.5, 127.5)
    assert spec.origin["licence"] == "not stated"


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 1]}, (25.5, 51, 76.5), (102, 127.5, 255)),
        ({"do_rescale": False, "image_mean": [1, 2, 3], "image_std": [4, 5, 6]}, (1, 2, 3), (4, 5, 6)),
        ({"do_normalize": False}, (0, 0, 0), (255, 255, 255)),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, [127.5] * 3, [127.5] * 3),
    ],
)
def test_normalization_is_the_preprocessors(
    values: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path
) -> None:
    save(v1(depth_multiplier=0.25, num_labels=4), tmp_path)
    processor = MobileNetV2ImageProcessor(**values)
    processor.save_pretrained(tmp_path)
    spec = read_folder(tmp_path, "mine").spec
    assert spec.mean == pytest.approx(mean)
    assert spec.std == pytest.approx(std)
    image = np.random.randint(0, 256, (224, 224, 3), dtype=np.uint8)
    expected = processor(image, do_resize=False, return_tensors="np", input_data_format="channels_last")
    found = (image - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(found.transpose(2, 0, 1), expected["pixel_values"][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "size", "resize"),
    [
        ({}, (224, 224), "crop"),
        ({"size": {"shortest_edge": 240}, "crop_size": {"height": 192, "width": 192}}, (192, 192), "crop"),
        ({"size": {"height": 160, "width": 200}, "do_center_crop": False}, (160, 200), "stretch"),
        ({"size": {"height": 96, "width": 96}, "crop_size": {"height": 96, "width": 96}}, (96, 96), "stretch"),
    ],
)
@pytest.mark.parametrize("shape", [(300, 420), (411, 256), (90, 120)])
def test_an_image_is_resized_and_cropped_as_transformers_does(
    values: dict[str, Any], size: tuple[int, int], resize: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    save(v1(depth_multiplier=0.25, num_labels=4), tmp_path)
    processor = MobileNetV2ImageProcessor(**values)
    processor.save_pretrained(tmp_path)
    preprocess = read_folder(tmp_path, "mine").spec.input
    assert (preprocess.size, preprocess.resize) == (size, resize)
    # A smooth image hardly depends on interpolation, but shows the smallest shift.
    rows, columns = np.linspace(0, 255, shape[0]), np.linspace(0, 255, shape[1])
    image = np.stack(np.broadcast_arrays(rows[:, None], columns[None], 128.0), axis=2).round().astype(np.uint8)
    expected = processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    found, _ = preprocess(image)
    assert np.abs(found - (expected.transpose(1, 2, 0) + 1) * 127.5).max() < 2.1


def test_numbers_in_place_of_sides_are_squares(tmp_path: Path) -> None:
    save(v1(depth_multiplier=0.25, num_labels=4), tmp_path)
    edit(tmp_path / "preprocessor_config.json", size=128, crop_size=96)
    preprocess = read_folder(tmp_path, "mine").spec.input
    assert (preprocess.size, preprocess.resize, preprocess.crop_fraction) == ((96, 96), "crop", 0.75)


def test_a_segmentation_network_without_a_crop_pads_to_a_square(tmp_path: Path) -> None:
    save(segmenter(num_labels=3, depth_multiplier=0.35), tmp_path)
    edit(tmp_path / "preprocessor_config.json", size={"shortest_edge": 257}, do_center_crop=False)
    preprocess = read_folder(tmp_path, "mine").spec.input
    assert (preprocess.size, preprocess.resize) == ((257, 257), "pad")


def test_a_folder_with_a_pickle_alone(tmp_path: Path) -> None:
    network = v1(depth_multiplier=0.25, num_labels=5)
    save(network, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    published = read_folder(tmp_path, "mine")
    assert published.spec.origin["sha256"] == sha256_of(tmp_path / "pytorch_model.bin")
    assert largest_difference(published.build(), network, noise((96, 96))) <= 1e-4


def test_a_converted_model_is_saved_and_loaded(tmp_path: Path) -> None:
    network = segmenter(depth_multiplier=0.35, num_labels=3, output_stride=16)
    converted = read_folder(save(network, tmp_path), "mine").build()
    converted.save(tmp_path / "model")
    model = VisionModel.load(tmp_path / "model")
    assert model.spec == converted.spec
    assert largest_difference(model, network, noise((65, 97))) <= 1e-4


def test_only_its_own_tensors_are_recognized() -> None:
    with torch.device("meta"):
        assert recognizes(MobileNetV1ForImageClassification(MobileNetV1Config()).state_dict())
        assert recognizes(MobileNetV2ForSemanticSegmentation(MobileNetV2Config()).state_dict())
    assert not recognizes({"conv_stem.weight": torch.zeros(1), "mobilenet_v3.conv_stem.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first_layer_is_expansion": False}, r"'first_layer_is_expansion' must be True, got False; other networks"),
        ({"expand_ratio": 4.0}, r"'expand_ratio' must be 6, got 4\.0; other networks"),
        ({"depth_divisible_by": 16}, r"'depth_divisible_by' must be 8, got 16; other networks"),
        ({"min_depth": 16}, r"'min_depth' must be 8, got 16; other networks"),
        ({"hidden_act": "relu"}, r"'hidden_act' must be relu6, got 'relu'; other networks"),
        ({"num_channels": 1}, r"'num_channels' must be 3, got 1; other networks"),
        ({"output_stride": 4}, r"'output_stride' must be 8, 16 or 32, got 4\."),
        ({"depth_multiplier": "wide"}, r"'depth_multiplier' must be a number above 0, got 'wide'\."),
        ({"depth_multiplier": -1}, r"'depth_multiplier' must be a number above 0, got -1\."),
        (
            {"depth_multiplier": 0.55},
            r"at 'depth_multiplier' 0\.55 transformers turns 32 channels into 24, but .* 16;",
        ),
        ({"depth_multiplier": 0.1, "output_stride": 16}, r"at 'depth_multiplier' 0\.1 and 'output_stride' 16 .* short"),
        ({"tf_padding": "same"}, r"'tf_padding' must be true or false, got 'same'\."),
        ({"layer_norm_eps": 0}, r"'layer_norm_eps' must be a number above 0, got 0\."),
        ({"classifier_dropout_prob": 2}, r"'classifier_dropout_prob' must be a number in 0\.\.1, got 2\."),
        (
            {"architectures": ["MobileNetV2Model"]},
            r"the architecture 'MobileNetV2Model' is not supported\. Did you mean 'MobileNet",
        ),
        ({"architectures": None}, r"'architectures' must name the network, got None\."),
        ({"model_type": "mobilenet_v1"}, r"'model_type' must be 'mobilenet_v2' for a MobileNetV2For.*, got 'mobil"),
        ({"id2label": {"0": "cat"}}, r" names 1 classes, but its network has 3\."),
        ({"id2label": {"0": "cat", "2": "dog", "3": "eel"}}, r"'id2label' must name every class id from 0 on"),
        ({"id2label": "cat"}, r"'id2label' must name every class id from 0 on"),
        ({"image_size": 0}, r"'image_size' must give 'height' in whole pixels above 0, got 0\."),
    ],
)
def test_unsupported_configurations_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(v2(num_labels=3, depth_multiplier=0.35), tmp_path)
    edit(tmp_path / "config.json", **values)
    if values == {"architectures": None}:
        assert "architectures" not in read_config(tmp_path)
    with pytest.raises(UserError, match=rf"config\.json.*{message}"):
        read_folder(tmp_path, "mine")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_depth": 16}, r"'min_depth' must be 8, got 16; other networks"),
        ({"output_stride": 16}, r"'output_stride' must be 32, got 16; other networks"),
    ],
)
def test_mobilenet_v1_has_fewer_options(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(v1(num_labels=3, depth_multiplier=0.25), tmp_path)
    edit(tmp_path / "config.json", **values)
    with pytest.raises(UserError, match=rf"config\.json: {message}"):
        read_folder(tmp_path, "mine")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"do_resize": False}, r"'do_resize' must be true"),
        ({"do_center_crop": False}, r"'crop_size' must be a square no larger than 'size', and 'do_center_crop' true\."),
        ({"crop_size": {"height": 224, "width": 192}}, r"'crop_size' must be a square no larger than 'size'"),
        ({"crop_size": 300}, r"'crop_size' must be a square no larger than 'size'"),
        ({"size": {"height": 256, "width": 256}}, r"'crop_size' must equal 'size' if that has a height and a width"),
        ({"size": {"longest_edge": 256}}, r"'size' must give 'shortest_edge' in whole pixels above 0, got \{'longest"),
        ({"crop_size": "large"}, r"'crop_size' must give 'height' in whole pixels above 0, got 'large'\."),
        ({"image_mean": 0.5}, r"'image_mean' must be three numbers, got 0\.5\."),
        ({"image_std": [0.5, 0.5, 0]}, r"'image_std' must be three numbers above 0, got \[0\.5, 0\.5, 0\]\."),
        ({"rescale_factor": 0}, r"'rescale_factor' must be a number above 0, got 0\."),
        ({"do_rescale": 1}, r"'do_rescale' must be true or false, got 1\."),
    ],
)
def test_unsupported_preprocessors_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(v1(num_labels=3, depth_multiplier=0.25), tmp_path)
    edit(tmp_path / "preprocessor_config.json", **values)
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: {message}"):
        read_folder(tmp_path, "mine")


def test_a_network_without_a_head_is_refused(tmp_path: Path) -> None:
    save(MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35)), tmp_path)
    edit(tmp_path / "config.json", architectures=["MobileNetV2ForImageClassification"])
    with pytest.raises(UserError, match=r"model\.safetensors lacks the layer that scores the classes"):
        read_folder(tmp_path, "mine")


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    network = v1(depth_multiplier=0.25, num_labels=5)
    save(network, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    marker = tmp_path / "marker"
    torch.save({**network.state_dict(), "more": Trap(marker)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin holds more than tensors: .*system.* would run code"):
        read_folder(tmp_path, "mine")
    assert not marker.exists()


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def with_tensors(**changes: Tensor | None) -> Callable[[Path], None]:
    """Puts tensors in the place of others, by names with _ for the dots; None removes one."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        names = {name.replace(".", "_"): name for name in tensors}
        for name, tensor in changes.items():
            del tensors[names[name]]
            if tensor is not None:
                tensors[names[name]] = tensor
        save_file(tensors, folder / "model.safetensors")

    return change


def with_text(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without("config.json"), r" has no config\.json"),
        (without("model.safetensors"), r" has no weights: neither model\.safetensors nor pytorch_model\.bin"),
        (
            with_text("config.json", '{"architectures": '),
            r"config\.json does not describe the weights: Expecting value",
        ),
        (with_text("config.json", "[]"), r"config\.json does not describe the weights: it holds no JSON object\."),
        (with_text("config.json", "[" * 100_000), r"config\.json does not .*: it is nested too deeply"),
        (
            with_text("preprocessor_config.json", "half"),
            r"preprocessor_config\.json does not .*: Expecting value",
        ),
        (cut_short, r"model\.safetensors (is damaged|holds no weights)"),
        (
            with_tensors(mobilenet_v1_layer_3_normalization_bias=torch.full((32,), float("nan"))),
            r"'mobilenet_v1\.layer\.3\.normalization\.bias' holds numbers that are not finite",
        ),
        (
            with_tensors(mobilenet_v1_layer_3_normalization_bias=torch.zeros(9)),
            r"mine has values of shape \(9,\) for 'backbone\.layers\.layer_3\.pointwise\.norm\.bias', which must be",
        ),
        (
            with_tensors(mobilenet_v1_layer_4_convolution_weight=None),
            r"mine has no values for 'backbone\.layers\.layer_4\.depthwise\.conv\.weight'",
        ),
        (with_tensors(classifier_bias=torch.zeros(2)), r"config\.json names 3 classes, but its network has 2\."),
    ],
)
def test_damaged_folders_are_refused(break_it: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    save(v1(num_labels=3, depth_multiplier=0.25), tmp_path)
    break_it(tmp_path)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, "mine").build()
