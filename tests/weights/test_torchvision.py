import re
from collections.abc import Iterator
from functools import cache, partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import get_model_weights, segmentation
from torchvision.transforms.functional import center_crop, resize

from mbv2kit.errors import UserError
from mbv2kit.heads.deeplab_v3 import DeepLabV3
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.weights import torchvision
from mbv2kit.weights.published import Published
from mbv2kit.weights.tensor_files import read_tensors, sha256_of
from tests.norms import randomize_norms

WIDTHS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
SIZES = ((224, 224), (225, 193), (97, 131))
NO_FILE = "0" * 64
# torchvision's numbers of normalization, for shares of white.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def randomized(network: nn.Module, scores: str) -> nn.Module:
    """Returns the network in evaluation mode; every number has an effect, logits of ``scores`` are of order one."""
    randomize_norms(network)
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, mode="fan_in")
            if part.bias is not None:
                nn.init.normal_(part.bias, std=0.3)
        # The sum of 33 blocks grows with each of them.
        elif name.endswith("bn3"):
            nn.init.uniform_(part.weight, 0.1, 0.3)
    weight = network.get_parameter(f"{scores}.weight")
    nn.init.normal_(weight, std=0.1 * weight[0].numel() ** -0.5)
    return network.eval()


@cache
def mobilenet(width: float, num_classes: int = 1000) -> nn.Module:
    return randomized(models.mobilenet_v2(width_mult=width, num_classes=num_classes), "classifier.1")


@cache
def deeplab() -> nn.Module:
    network = segmentation.deeplabv3_resnet101(weights=None, weights_backbone=None, aux_loss=True)
    return randomized(network, "classifier.4")


def read(network: nn.Module, digest: str = NO_FILE, file_name: str | None = None) -> Published:
    tensors = network.state_dict()
    assert torchvision.recognizes(tensors)
    return torchvision.read(tensors, source="somewhere", sha256=digest, file_name=file_name)


def names_of(build: Any, **options: Any) -> dict[str, Tensor]:
    """Returns names and shapes of a network without values."""
    with torch.device("meta"):
        tensors: dict[str, Tensor] = build(**options).state_dict()
        return tensors


def images(*size: int) -> Tensor:
    return torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images / 255 - mean) / std


@torch.no_grad()
def difference(ours: VisionModel, theirs: nn.Module, images: Tensor) -> float:
    """The largest difference between two networks' logits, which must not be all alike."""
    (raw,) = ours(images).values()
    found, expected = raw["logits"], theirs(normalized(images))
    if isinstance(expected, dict):
        expected = expected["out"]
        head = ours.heads["segmentation"]
        assert isinstance(head, DeepLabV3)
        found = head.enlarge(found, (images.shape[2], images.shape[3]))
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    return float((found - expected).abs().max())


@pytest.mark.parametrize("width", WIDTHS)
def test_mobilenet_v2_gives_the_same_logits_at_every_width_and_size(width: float) -> None:
    theirs = mobilenet(width)
    published = read(theirs)
    assert published.spec.backbone["width"] == width
    assert published.left_out == []
    ours = published.build()
    for size in SIZES:
        assert difference(ours, theirs, images(*size)) <= 1e-4


def test_a_mobilenet_v2_of_five_classes_gives_the_same_logits() -> None:
    theirs = mobilenet(0.5, 5)
    published = read(theirs)
    assert published.spec.class_names["classification"] == tuple(f"class_{index}" for index in range(5))
    assert difference(published.build(), theirs, images(225, 193)) <= 1e-4


def test_resnet_101_gives_the_same_logits() -> None:
    theirs = randomized(models.resnet101(), "fc")
    published = read(theirs)
    assert published.left_out == []
    ours = published.build()
    for size in SIZES[:2]:
        assert difference(ours, theirs, images(*size)) <= 1e-4


@pytest.mark.slow
def test_vgg16_gives_the_same_logits() -> None:
    theirs = randomized(models.vgg16(num_classes=10, init_weights=False), "classifier.6")
    published = read(theirs)
    assert published.left_out == []
    assert difference(published.build(), theirs, images(225, 193)) <= 1e-4


@pytest.mark.slow
def test_deeplab_v3_gives_the_same_logits_for_every_pixel() -> None:
    theirs = deeplab()
    ours = read(theirs).build()
    for size in SIZES[:2]:
        assert difference(ours, theirs, images(*size)[:1]) <= 1e-4


@pytest.mark.parametrize("name", ["grace_hopper.bmp", "bird.bmp"])
def test_real_images_give_the_same_logits(name: str, shared_data: Path) -> None:
    theirs = mobilenet(1.0)
    ours = read(theirs).build()
    original = decode(shared_data / "images" / name)
    pixels, _ = ours.preprocess(original)
    for image in (pixels, original[:225, :193]):
        assert difference(ours, theirs, images_to_tensor([image])) <= 1e-4


@pytest.mark.slow
def test_a_real_image_gives_the_same_logits_for_every_pixel(shared_data: Path) -> None:
    theirs = deeplab()
    original = decode(shared_data / "images" / "cat.bmp")
    image, _ = Preprocess((225, 193), resize="letterbox")(original)
    assert difference(read(theirs).build(), theirs, images_to_tensor([image])) <= 1e-4


@pytest.mark.parametrize("size", [(300, 401), (701, 300), (100, 120)])
@pytest.mark.parametrize("version", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_preprocessing_is_that_of_torchvisions_transforms(version: str, size: tuple[int, int]) -> None:
    entry = models.MobileNet_V2_Weights[version]
    preprocess = read(mobilenet(0.25), file_name=Path(entry.url).name).spec.input
    # The value of a pixel is its position.
    rows, columns = (np.linspace(0, 255, side).round().astype(np.uint8) for side in size)
    image = np.stack([*np.meshgrid(rows, columns, indexing="ij"), np.zeros(size, np.uint8)], axis=2)
    transforms = entry.transforms()
    whole = resize(torch.from_numpy(image).permute(2, 0, 1), transforms.resize_size, antialias=True)
    expected = center_crop(whole, transforms.crop_size).permute(1, 2, 0).numpy()
    pixels, _ = preprocess(image)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("network", "version", "short_side"),
    [
        ("mobilenet_v2", "IMAGENET1K_V1", 256),
        ("mobilenet_v2", "IMAGENET1K_V2", 232),
        ("resnet101", "IMAGENET1K_V1", 256),
        ("resnet101", "IMAGENET1K_V2", 232),
        ("vgg16", "IMAGENET1K_V1", 256),
    ],
)
@pytest.mark.parametrize("by", ["name", "sha256"])
def test_preprocessing_is_that_of_the_published_file(network: str, version: str, short_side: int, by: str) -> None:
    entry = get_model_weights(network)[version]
    file_name = Path(entry.url).name
    beginning = file_name.removesuffix(".pth").split("-")[-1]
    known = {"file_name": file_name} if by == "name" else {"digest": beginning + NO_FILE[len(beginning) :]}
    spec = torchvision.read(
        names_of(getattr(models, network)),
        source=f"torchvision:{network}",
        sha256=known.get("digest", NO_FILE),
        file_name=known.get("file_name"),
    ).spec
    assert spec.input == Preprocess((224, 224), resize="crop", crop_fraction=224 / short_side)
    assert spec.mean == pytest.approx([255 * share for share in MEAN])
    assert spec.std == pytest.approx([255 * share for share in STD])
    assert list(spec.class_names["classification"]) == entry.meta["categories"]
    assert spec.origin["source"] == f"torchvision:{network}"
    assert spec.origin["sha256"] == known.get("digest", NO_FILE)
    assert spec.origin["licence"] == "BSD-3-Clause"
    assert spec.origin["background_class"] == "none"
    assert spec.origin["transforms"] == f"torchvision {entry!r}"


def test_the_hash_takes_precedence_over_the_name() -> None:
    spec = read(mobilenet(0.25), "b0353104" + NO_FILE[8:], "mobilenet_v2-7ebf99e0.pth").spec
    assert spec.input.crop_fraction == 224 / 256


def test_any_other_file_gets_the_newest_transforms_and_no_license() -> None:
    spec = read(mobilenet(0.25, 5), file_name="mine.pth").spec
    assert spec.input.crop_fraction == 224 / 232
    assert spec.origin["licence"] == "not stated"


def test_deeplab_v3_keeps_the_aspect_ratio_and_drops_its_second_classifier() -> None:
    tensors = names_of(segmentation.deeplabv3_resnet101, weights_backbone=None, aux_loss=True)
    published = torchvision.read(
        tensors, source="somewhere", sha256=NO_FILE, file_name="deeplabv3_resnet101_coco-586e9e4e.pth"
    )
    assert published.spec.input == Preprocess((520, 520), resize="letterbox", fill=114)
    names = published.spec.class_names["segmentation"]
    assert len(names) == 21
    assert names[0] == "background"
    assert list(names[1:]) == segmentation.DeepLabV3_ResNet101_Weights.DEFAULT.meta["categories"][1:]
    assert published.spec.origin["background_class"] == "first output"
    assert published.spec.origin["licence"] == "BSD-3-Clause"
    assert published.left_out == [name for name in tensors if name.startswith("aux_classifier.")] != []


def test_a_deeplab_v3_without_the_second_classifier_is_recognized() -> None:
    assert torchvision.recognizes(
        names_of(segmentation.deeplabv3_resnet101, weights_backbone=None, aux_loss=False, num_classes=3)
    )


def test_the_tables_name_every_parameter() -> None:
    for name, network in torchvision.NETWORKS.items():
        build = getattr(models, name, None) or partial(getattr(segmentation, name), weights_backbone=None)
        theirs = {tensor.rpartition(".")[0] for tensor in names_of(build)}
        assert theirs == network.modules.keys()
        assert len(set(network.modules.values())) == len(network.modules)


def test_a_converted_model_is_saved_and_loaded(tmp_path: Path) -> None:
    ours = read(mobilenet(0.25), file_name="mobilenet_v2-b0353104.pth").build()
    ours.save(tmp_path / "model")
    again = VisionModel.load(tmp_path / "model")
    assert again.spec.to_dict() == {**ours.spec.to_dict(), "mean": again.spec.mean, "std": again.spec.std}
    inputs = images(64, 64)
    assert torch.equal(ours(inputs)["classification"]["logits"], again(inputs)["classification"]["logits"])


def unlike() -> dict[str, dict[str, Tensor]]:
    """Returns names and shapes of networks that resemble the supported ones."""
    import timm

    other = {
        name: names_of(getattr(models, name))
        for name in (
            "mobilenet_v3_small",
            "resnet50",
            "resnet152",
            "resnext101_32x8d",
            "wide_resnet101_2",
            "vgg16_bn",
            "vgg13",
            "vgg19",
        )
    }
    other["deeplabv3_resnet50"] = names_of(segmentation.deeplabv3_resnet50, weights_backbone=None)
    other["fcn_resnet101"] = names_of(segmentation.fcn_resnet101, weights_backbone=None)
    for name in ("mobilenetv2_100", "vgg16"):
        other[f"timm {name}"] = names_of(partial(timm.create_model, name))
    return other


def test_other_networks_are_not_recognized() -> None:
    for name, tensors in unlike().items():
        assert not torchvision.recognizes(tensors), name
    part = {name: tensor for name, tensor in mobilenet(0.25).state_dict().items() if "features.9." not in name}
    assert not torchvision.recognizes(part)
    assert not torchvision.recognizes({})


def test_hugging_faces_names_are_not_recognized() -> None:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    assert not torchvision.recognizes(names_of(lambda: MobileNetV2ForImageClassification(MobileNetV2Config())))


def test_reading_another_network_lists_the_supported_ones() -> None:
    with pytest.raises(
        UserError, match=r"^my\.pth holds none of torchvision's networks .*: mobilenet_v2, resnet101, .*vgg16\.$"
    ):
        torchvision.read({"weight": torch.zeros(1)}, source="my.pth", sha256=NO_FILE)


class Files(SimpleHTTPRequestHandler):
    """Serves a folder without logging."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and its URL on this machine; torch's cache is empty."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def publish(folder: Path, address: str, version: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a small MobileNetV2 where torchvision publishes ``version`` from now on."""
    file = folder / "new.pth"
    torch.save(mobilenet(0.25).state_dict(), file)
    file = file.rename(folder / f"mobilenet_v2-{sha256_of(file)[:8]}.pth")
    monkeypatch.setattr(models.MobileNet_V2_Weights[version].value, "url", f"{address}/{file.name}")
    return file


@pytest.mark.parametrize(
    ("name", "version"),
    [("mobilenet_v2", "IMAGENET1K_V2"), ("mobilenet_v2@IMAGENET1K_V1", "IMAGENET1K_V1")],
)
def test_a_published_file_is_fetched_once(
    name: str, version: str, served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish(*served, version, monkeypatch)
    content = file.read_bytes()
    path = torchvision.fetch(name)
    assert path == tmp_path / "cache" / "hub" / "checkpoints" / file.name
    assert path.read_bytes() == content
    file.unlink()
    assert torchvision.fetch(name) == path
    tensors = read_tensors(path)
    spec = torchvision.read(tensors, source=name, sha256=sha256(content).hexdigest(), file_name=path.name).spec
    assert spec.origin["transforms"].endswith(version)
    assert spec.origin["licence"] == "BSD-3-Clause"


def test_a_damaged_file_in_the_cache_is_fetched_again(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish(*served, "IMAGENET1K_V2", monkeypatch)
    path = torchvision.fetch("mobilenet_v2")
    path.write_bytes(path.read_bytes()[:-100])
    assert torchvision.fetch("mobilenet_v2").read_bytes() == file.read_bytes()


def test_a_file_with_another_hash_is_refused_and_not_kept(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish(*served, "IMAGENET1K_V2", monkeypatch)
    file.write_bytes(file.read_bytes()[:-100])
    url = re.escape(f"{served[1]}/{file.name}")
    with pytest.raises(UserError, match=rf"{url} was cut short or is another file, .* fetch {url} by hand"):
        torchvision.fetch("mobilenet_v2")
    assert list((tmp_path / "cache" / "hub" / "checkpoints").iterdir()) == []


def test_a_missing_file_is_reported_with_what_to_do(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(*served, "IMAGENET1K_V2", monkeypatch)
    file.unlink()
    with pytest.raises(UserError, match=r"\(File not found\); fetch http://\S+\.pth by hand and give the path"):
        torchvision.fetch("mobilenet_v2")


def test_no_network_is_reported_with_what_to_do(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(served[0], "http://127.0.0.1:1", "IMAGENET1K_V2", monkeypatch)
    with pytest.raises(
        UserError, match=r"could not be fetched to .*refused.*; fetch http://\S+ by hand and give"
    ) as error:
        torchvision.fetch("mobilenet_v2")
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenetv2", r"torchvision's 'mobilenetv2' is not supported\. Did you mean 'mobilenet_v2'\?"),
        ("vgg16@IMAGENET1K_V2", r"no 'IMAGENET1K_V2' weights of the whole vgg16\. Did you mean 'IMAGENET1K_V1'\?"),
        ("vgg16@IMAGENET1K_FEATURES", r"no 'IMAGENET1K_FEATURES' weights of the whole vgg16\."),
    ],
)
def test_unknown_names_name_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        torchvision.fetch(name)
