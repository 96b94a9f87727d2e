from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mbv2kit.backbones import list_backbones
from mbv2kit.heads import Head
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.structures import TASKS
from tests.exporting.models import noise, small_model
from tests.norms import randomize_norms

SIDES = {"nasnet_a": 64}


def outputs_of(model: VisionModel, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """What the model answers as it is, tensor by tensor."""
    raw = model(images)
    for head in model.heads.values():
        assert isinstance(head, Head)
        yield from head.outputs(raw[head.task], (images.shape[2], images.shape[3])).items()


@pytest.mark.parametrize("name", list_backbones())
@torch.inference_mode()
def test_every_backbone_answers_as_before(name: str) -> None:
    spec = ModelSpec(
        backbone={"name": name},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": ("a", "b", "c")},
        input=Preprocess((64, 64)),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    )
    model = VisionModel(spec).eval()
    randomize_norms(model)
    images = noise(2, (64, 64))
    raw = model(images_to_tensor(images))["classification"]["logits"]
    folded = ExportNetwork(model)
    features = folded.backbone(images_to_tensor(images).float() - folded.mean)
    head = folded.heads["classification"]
    assert isinstance(head, Head)
    # Logits differ more visibly than probabilities.
    difference = (head(features)["logits"] - raw).abs().max() / raw.std()
    assert difference < 1e-3


@torch.inference_mode()
def test_all_answers_come_out_in_the_order_of_their_names() -> None:
    model = small_model(*TASKS)
    network = ExportNetwork(model).eval()
    assert network.output_names == ("probabilities", "boxes", "scores", "mask")
    assert network.nms_options["detection"].score_threshold == 0.05
    images = images_to_tensor(noise(2, (64, 64)))
    found = dict(zip(network.output_names, network(images.permute(0, 2, 3, 1)), strict=True))
    for name, expected in outputs_of(model, images):
        if name == "mask":
            assert (found[name] == expected).float().mean() > 0.999
        else:
            torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-4)


def test_the_model_itself_is_left_as_it_is() -> None:
    model = small_model("classification")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ExportNetwork(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_no_norm_is_left() -> None:
    network = ExportNetwork(small_model(*TASKS))
    assert not [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]


@torch.inference_mode()
def test_another_size_is_a_matter_of_the_network_alone() -> None:
    model = small_model("segmentation")
    network = ExportNetwork(model, (48, 80)).eval()
    assert network.example(3).shape == (3, 48, 80, 3)
    (mask,) = network(network.example())
    assert mask.shape == (1, 48, 80)
    assert mask.dtype == torch.uint8
