import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image as PillowImage
from safetensors.torch import load_file, save_file
from timm.data.transforms_factory import create_transform
from timm.models import save_for_hf
from torch import Tensor, nn

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decode
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.weights.class_names import imagenet_classes
from mbv2kit.weights.tensor_files import sha256_of
from mbv2kit.weights.timm import read, read_folder, recognizes, repository
from tests.norms import randomize_norms
from tests.trap import Trap

NETWORKS = {
    "mobilenetv1_100": {"name": "mobilenet_v1", "width": 1.0},
    "mobilenetv1_125": {"name": "mobilenet_v1", "width": 1.25},
    "mobilenetv2_035": {"name": "mobilenet_v2", "width": 0.35},
    "mobilenetv2_050": {"name": "mobilenet_v2", "width": 0.5},
    "mobilenetv2_075": {"name": "mobilenet_v2", "width": 0.75},
    "mobilenetv2_100": {"name": "mobilenet_v2", "width": 1.0},
    "mobilenetv2_110d": {"name": "mobilenet_v2", "width": 1.1, "depth": 1.2, "fixed_ends": True},
    "mobilenetv2_120d": {"name": "mobilenet_v2", "width": 1.2, "depth": 1.4, "fixed_ends": True},
    "mobilenetv2_140": {"name": "mobilenet_v2", "width": 1.4},
}
SIZES = [(224, 224), (225, 193), (97, 131)]


def original(name: str, **options: Any) -> nn.Module:
    """Returns a network of timm in which every number has an effect, with logits of order one."""
    network: nn.Module = timm.create_model(name, **options)
    randomize_norms(network)
    assert isinstance(network.classifier, nn.Linear)
    nn.init.normal_(network.classifier.weight, std=0.02)
    nn.init.normal_(network.classifier.bias, std=0.5)
    # With statistics of other data, signals and rounding errors grow from block to block.
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    network.train()(torch.randn(4, 3, 96, 96))
    return network.eval()


def on_meta(name: str, **options: Any) -> dict[str, Tensor]:
    """Returns the names and shapes of timm's tensors, without values."""
    with torch.device("meta"):
        state: dict[str, Tensor] = timm.create_model(name, **options).state_dict()
        return state


def configuration(name: str) -> dict[str, Any]:
    """Returns what timm says about the weights of a network."""
    found = timm.get_pretrained_cfg(name)
    assert found is not None
    return asdict(found)


def save(network: nn.Module, folder: Path, **options: Any) -> Path:
    """Writes a folder as timm does for the Hub."""
    save_for_hf(network, str(folder), safe_serialization=True, **options)
    return folder


def edit(folder: Path, **values: Any) -> None:
    """Changes the file config.json: its pretrained_cfg if that has such a key, else the object itself."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in values.items():
        (config["pretrained_cfg"] if key in config["pretrained_cfg"] else config)[key] = value
    path.write_text(json.dumps(config))


@torch.inference_mode()
def assert_same_logits(model: VisionModel, name: str, network: nn.Module, images: Tensor) -> None:
    """Compares the logits of uint8 images; timm's network gets them normalized as timm does."""
    mean, std = (torch.tensor(configuration(name)[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    expected = network((images / 255 - mean) / std)
    assert 0.2 < expected.std() < 20
    found = model(images)["classification"]["logits"]
    assert (found - expected).abs().max().item() <= 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_timms(name: str) -> None:
    network = original(name)
    published = read(network.state_dict(), source=name, sha256="0")
    assert published.left_out == []
    model = published.build()
    assert set(published.tensors) == set(model.state_dict())
    for size in SIZES:
        assert_same_logits(model, name, network, torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))


@pytest.mark.parametrize("name", ["mobilenetv1_125", "mobilenetv2_100"])
def test_the_logits_of_real_images_are_timms(name: str, shared_data: Path) -> None:
    images = [decode(path) for path in sorted((shared_data / "images").glob("*.bmp"))]
    assert len(images) >= 3
    network = original(name)
    model = read(network.state_dict(), source=name, sha256="0").build()
    assert_same_logits(model, name, network, images_to_tensor([model.preprocess(image)[0] for image in images]))


@pytest.mark.parametrize("name", NETWORKS)
def test_preprocessing_and_classes_come_with_the_weights(name: str) -> None:
    spec = read(on_meta(name), source=f"timm:{name}", sha256="12ab").spec
    assert spec.backbone == {**NETWORKS[name], "padding": "symmetric", "norm_eps": 1e-5, "norm_momentum": 0.1}
    assert spec.heads == {"classification": {"name": "classifier", "background": False}}
    assert spec.class_names == {"classification": imagenet_classes()}
    half, imagenet = (0.5, 0.5, 0.5), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = (half, half) if "v1" in name else imagenet
    assert spec.mean == pytest.approx([255 * value for value in mean])
    assert spec.std == pytest.approx([255 * value for value in std])
    assert (spec.input.size, spec.input.resize) == ((224, 224), "crop")
    # The short side is scaled to 256 pixels, that of mobilenetv1_125 to 248.
    assert 224 / spec.input.crop_fraction == pytest.approx(248 if name == "mobilenetv1_125" else 256)
    found = dict(spec.origin)
    assert found.pop("converted_by").startswith("mbv2kit ")
    assert found == {
        "source": f"timm:{name}",
        "sha256": "12ab",
        "licence": "Apache-2.0",
        "background_class": "none",
        "interpolation": "bicubic",
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_a_configuration_of_timms_says_what_is_assumed_without_one(name: str) -> None:
    with_config = read(on_meta(name), source=name, sha256="0", architecture=name, config=configuration(name)).spec
    without = read(on_meta(name), source=name, sha256="0").spec
    assert with_config.origin["licence"].lower() == "apache-2.0"
    assert with_config.to_dict() | {"origin": {}} == without.to_dict() | {"origin": {}}


@pytest.mark.parametrize("name", ["mobilenetv1_125", "mobilenetv2_100"])
@pytest.mark.parametrize("size", [(300, 420), (411, 256), (90, 120)])
def test_an_image_is_resized_and_cropped_as_timm_does(name: str, size: tuple[int, int]) -> None:
    # A smooth image hardly depends on interpolation, but shows the smallest shift.
    rows, columns = np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1])
    image = np.stack(np.broadcast_arrays(rows[:, None], columns[None], 128.0), axis=2).round().astype(np.uint8)
    options = {key: configuration(name)[key] for key in ("input_size", "crop_pct", "crop_mode", "interpolation")}
    transform: Callable[[Any], Any] = create_transform(**options, normalize=False)
    expected = np.asarray(transform(PillowImage.fromarray(image)), dtype=np.float64).transpose(1, 2, 0)
    found, _ = read(on_meta(name), source=name, sha256="0").spec.input(image)
    assert np.abs(found - expected).max() < 2.1


def test_the_background_of_1001_outputs_is_no_class() -> None:
    network = original("mobilenetv2_035", num_classes=1001)
    published = read(network.state_dict(), source="x", sha256="0")
    assert len(published.spec.class_names["classification"]) == 1000
    assert published.spec.origin["background_class"] == "first output"
    assert_same_logits(
        published.build(), "mobilenetv2_035", network, torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    )


def test_weights_for_other_classes_do_not_get_timms_license() -> None:
    spec = read(on_meta("mobilenetv2_050", num_classes=3), source="x", sha256="0").spec
    assert spec.class_names == {"classification": ("class_0", "class_1", "class_2")}
    assert spec.origin["licence"] == "not stated"


def test_tensors_that_the_network_does_not_have_are_named() -> None:
    tensors = {**on_meta("mobilenetv2_100"), "aux.weight": torch.zeros(1)}
    assert read(tensors, source="x", sha256="0").left_out == ["aux.weight"]


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_lite0",
        "mnasnet_100",
        "fbnetc_100",
        "spnasnet_100",
        "mobilenetv3_large_100",
        "tinynet_a",
        "resnet18",
    ],
)
def test_sister_networks_are_refused(name: str) -> None:
    assert not recognizes(on_meta(name))
    with pytest.raises(UserError, match=r"file\.pth holds none of timm's networks that are supported: mobilenetv1_"):
        read(on_meta(name), source="file.pth", sha256="0")


@pytest.mark.slow
def test_only_the_mobilenets_of_their_family_are_recognized() -> None:
    names = [name for module in ("efficientnet", "mobilenetv3", "ghostnet") for name in timm.list_models(module=module)]
    assert len(names) > 150
    assert {name for name in names if recognizes(on_meta(name))} == {*NETWORKS, "mobilenetv1_100h"}


def test_a_mobilenet_without_its_classifier_is_not_recognized() -> None:
    assert not recognizes(on_meta("mobilenetv2_100", num_classes=0))


@pytest.mark.parametrize("architecture", [None, "mobilenetv1_100h"])
def test_the_head_of_its_own_is_refused(architecture: str | None) -> None:
    tensors = on_meta("mobilenetv1_100h")
    assert recognizes(tensors)
    with pytest.raises(UserError, match=r"mobilenetv1_100h has a layer between its pooling and its classifier"):
        read(tensors, source="file.pth", sha256="0", architecture=architecture)


def test_a_name_that_does_not_fit_the_tensors_is_refused() -> None:
    with pytest.raises(UserError, match=r"x should be mobilenetv2_140, .* shapes of .*'width': 1\.0"):
        read(on_meta("mobilenetv2_100"), source="x", sha256="0", architecture="mobilenetv2_140")


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"timm's 'mobilenetv2_100d' is not supported\. Did you mean 'mobilenetv2_100'\?"
    ):
        read(on_meta("mobilenetv2_100"), source="x", sha256="0", architecture="mobilenetv2_100d")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenetv1_100", "timm/mobilenetv1_100.ra4_e3600_r224_in1k"),
        ("mobilenetv1_125", "timm/mobilenetv1_125.ra4_e3600_r224_in1k"),
        ("mobilenetv2_050", "timm/mobilenetv2_050.lamb_in1k"),
        ("mobilenetv2_100", "timm/mobilenetv2_100.ra_in1k"),
        ("mobilenetv2_100.ra_in1k", "timm/mobilenetv2_100.ra_in1k"),
        ("mobilenetv2_110d", "timm/mobilenetv2_110d.ra_in1k"),
        ("mobilenetv2_120d.ra_in1k", "timm/mobilenetv2_120d.ra_in1k"),
        ("mobilenetv2_140", "timm/mobilenetv2_140.ra_in1k"),
    ],
)
def test_repositories_are_those_that_timm_names(name: str, expected: str) -> None:
    assert repository(name) == expected
    assert configuration(name)["hf_hub_id"] == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenetv2_035", r"timm publishes no weights for mobilenetv2_035, only for mobilenetv1_100, "),
        ("mobilenetv2_075", r"timm publishes no weights for mobilenetv2_075"),
        ("mobilenetv2_100.lamb_in1k", r"the tag 'lamb_in1k' is unknown\. Did you mean 'ra_in1k'\?"),
        ("mobilenetv1_100h", r"take mobilenetv1_100 instead"),
        ("mobilenetv2_10", r"timm's 'mobilenetv2_10' is not supported\. Did you mean 'mobilenetv2_1"),
        ("efficientnet_lite0", r"timm's 'efficientnet_lite0' is not supported\. Known: mobilenetv1_100, "),
    ],
)
def test_names_without_a_repository_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        repository(name)


@pytest.mark.parametrize("name", ["mobilenetv1_125", "mobilenetv2_110d"])
def test_a_folder_that_timm_wrote(name: str, tmp_path: Path) -> None:
    network = original(name)
    published = read_folder(save(network, tmp_path), f"timm:{name}")
    assert published.spec.origin["sha256"] == sha256_of(tmp_path / "model.safetensors")
    assert published.spec.origin["licence"].lower() == "apache-2.0"
    assert published.spec.backbone.items() >= NETWORKS[name].items()
    assert_same_logits(published.build(), name, network, torch.randint(0, 256, (2, 3, 97, 131), dtype=torch.uint8))


def test_a_converted_model_is_saved_and_loaded(tmp_path: Path) -> None:
    network = original("mobilenetv1_125")
    converted = read_folder(save(network, tmp_path), "mine").build()
    converted.save(tmp_path / "model")
    model = VisionModel.load(tmp_path / "model")
    assert model.spec == converted.spec
    images = torch.randint(0, 256, (1, 3, 65, 97), dtype=torch.uint8)
    assert_same_logits(model, "mobilenetv1_125", network, images)


def test_a_folder_with_a_pickle_alone(tmp_path: Path) -> None:
    network = original("mobilenetv2_035")
    save_for_hf(network, str(tmp_path))
    assert not (tmp_path / "model.safetensors").exists()
    published = read_folder(tmp_path, "mine")
    assert published.spec.origin["sha256"] == sha256_of(tmp_path / "pytorch_model.bin")
    assert_same_logits(
        published.build(), "mobilenetv2_035", network, torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    )


def test_a_folder_says_how_images_are_preprocessed(tmp_path: Path) -> None:
    save(timm.create_model("mobilenetv2_035", num_classes=2), tmp_path, model_config={"label_names": ["cat", "dog"]})
    edit(tmp_path, input_size=[3, 192, 160], crop_pct=0.9, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], license="mit")
    edit(tmp_path, interpolation="bilinear")
    spec = read_folder(tmp_path, "mine").spec
    assert spec.input.size == (192, 160)
    # timm scales to floor(192 / 0.9) = 213 pixels.
    assert spec.input.crop_fraction == pytest.approx(192 / 213)
    assert spec.mean == pytest.approx((25.5, 51, 76.5))
    assert spec.std == pytest.approx((102, 127.5, 153))
    assert spec.class_names == {"classification": ("cat", "dog")}
    assert spec.origin["licence"] == "mit"
    assert spec.origin["interpolation"] == "bilinear"


def test_the_model_card_states_the_license_if_the_configuration_has_none(tmp_path: Path) -> None:
    save(timm.create_model("mobilenetv2_035"), tmp_path)
    edit(tmp_path, license=None)
    (tmp_path / "README.md").write_text("---\ntags:\n- timm\nlicense: cc-by-4.0\n---\n# A model\nlicense: none of it\n")
    assert read_folder(tmp_path, "mine").spec.origin["licence"] == "cc-by-4.0"


def test_class_names_by_their_ids_and_a_flat_configuration(tmp_path: Path) -> None:
    save(timm.create_model("mobilenetv2_035", num_classes=11), tmp_path)
    names = [f"kind {index}" for index in range(11)]
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"label_names": {str(index): name for index, name in enumerate(names)}}))
    assert list(read_folder(tmp_path, "mine").spec.class_names["classification"]) == names
    flat = {**config["pretrained_cfg"], "architecture": "mobilenetv2_035", "labels": names, "crop_pct": 1.0}
    path.write_text(json.dumps(flat))
    spec = read_folder(tmp_path, "mine").spec
    assert list(spec.class_names["classification"]) == names
    assert spec.input.crop_fraction == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "resnet50"}, r"config\.json: timm's 'resnet50' is not supported\. "),
        ({"architecture": "mobilenetv1_100h"}, r"config\.json: mobilenetv1_100h has a layer between"),
        ({"architecture": None}, r"config\.json: 'architecture' must be the name of a network of timm, got None\."),
        ({"mean": [0.5, 0.5]}, r"mine/config\.json: 'mean' must be three numbers, got \[0\.5, 0\.5\]\."),
        ({"mean": "white"}, r"mine/config\.json: 'mean' must be three numbers, got 'white'\."),
        ({"std": [1, 0, 1]}, r"mine/config\.json: 'std' must be three numbers above 0, got \[1, 0, 1\]\."),
        ({"crop_pct": 1.2}, r"mine/config\.json: 'crop_pct' must be a number above 0 and at most 1, got 1\.2\."),
        ({"crop_pct": "all"}, r"mine/config\.json: 'crop_pct' must be a number above 0 and at most 1, got 'all'\."),
        ({"crop_mode": "squash"}, r"mine/config\.json: 'crop_mode' must be 'center', got 'squash'\."),
        ({"input_size": 224}, r"mine/config\.json: 'input_size' must be \[3, height, width\], got 224\."),
        (
            {"input_size": [1, 224, 224]},
            r"mine/config\.json: 'input_size' must be \[3, height, width\], got \[1, 224, 224\]\.",
        ),
        ({"label_names": ["cat"]}, r"mine/config\.json names 1 classes, but its network has 1000\."),
        (
            {"label_names": {"1": "cat", "3": "dog"}},
            r"mine/config\.json: 'label_names' must name every class id from 0 on",
        ),
        ({"label_names": [1, 2]}, r"mine/config\.json: 'label_names' must name every class id from 0 on"),
        (
            {"model_args": {"output_stride": 16}},
            r"config\.json: 'output_stride' of 16 makes a network that is not supported",
        ),
        ({"global_pool": "max"}, r"config\.json: 'global_pool' of 'max' makes a network that is not supported"),
        ({"pretrained_cfg": []}, r"config\.json: 'pretrained_cfg' and 'model_args' must be JSON objects\."),
    ],
)
def test_unsupported_configurations_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(timm.create_model("mobilenetv2_035"), tmp_path)
    edit(tmp_path, **values)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, "mine")


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    save(timm.create_model("mobilenetv2_035"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    marker = tmp_path / "marker"
    torch.save({**tensors, "more": Trap(marker)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin holds more than tensors: .*system.* would run code"):
        read_folder(tmp_path, "mine")
    assert not marker.exists()


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def with_nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["blocks.2.1.bn3.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def with_a_wrong_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["blocks.2.1.bn3.weight"] = torch.ones(7)
    save_file(tensors, folder / "model.safetensors")


def with_one_tensor_less(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["blocks.5.2.bn1.running_var"]
    save_file(tensors, folder / "model.safetensors")


def with_broken_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"architecture": ')


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without("config.json"), r" has no config\.json"),
        (without("model.safetensors"), r" has no weights: neither model\.safetensors nor pytorch_model\.bin"),
        (cut_short, r"model\.safetensors (is damaged|holds no weights)"),
        (with_nan, r"model\.safetensors: the tensor 'blocks\.2\.1\.bn3\.weight' holds numbers that are not finite"),
        (with_a_wrong_shape, r"mine has values of shape \(7,\) for 'backbone\.layers\.layer_6\.project\.norm\.weight'"),
        (with_one_tensor_less, r"mine has no values for 'backbone\.layers\.layer_17\.expand\.norm\.running_var'"),
        (with_broken_json, r"config\.json does not describe the weights: "),
    ],
)
def test_damaged_folders_are_refused(break_it: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    save(timm.create_model("mobilenetv2_035"), tmp_path)
    break_it(tmp_path)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, "mine").build()
