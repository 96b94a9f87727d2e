from copy import deepcopy

import pytest
import torch
from torch import nn

from mbv2kit.exporting.sensitivity import Sensitivity, most_sensitive
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS
from tests.exporting.models import noise, small_model

SIZE = (64, 64)
IMAGES = noise(6, SIZE)


@pytest.fixture(scope="module")
def network() -> ExportNetwork:
    return ExportNetwork(small_model("classification")).eval()


@pytest.fixture(scope="module")
def found(network: ExportNetwork) -> list[Sensitivity]:
    return most_sensitive(network, IMAGES)


def test_every_layer_with_weights_has_its_name_in_the_model(network: ExportNetwork, found: list[Sensitivity]) -> None:
    layers = {name for name, part in network.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    assert {layer.name for layer in found} == layers
    assert {"backbone.layers.layer_2.depthwise.conv", "heads.classification.linear"} < layers


def test_the_most_sensitive_come_first(network: ExportNetwork, found: list[Sensitivity]) -> None:
    changes = [layer.change for layer in found]
    assert changes == sorted(changes, reverse=True)
    assert 0 < changes[0] < 1
    assert most_sensitive(network, IMAGES, 3) == found[:3]


def test_a_layer_whose_channels_differ_wildly_is_found() -> None:
    model: VisionModel = small_model("classification")
    parameters = dict(model.backbone.named_parameters())
    with torch.no_grad():
        # A channel a thousand times as large as the others leaves them a quarter of a step.
        parameters["layers.layer_18.project.norm.weight"][0] *= 1000
        parameters["layers.layer_18.project.norm.bias"][0] *= 1000
        parameters["layers.layer_19.conv.weight"][:, 0] /= 1000
    worst, second = most_sensitive(ExportNetwork(model).eval(), IMAGES, 2)
    assert worst.name == "backbone.layers.layer_18.project.conv"
    assert worst.change > 3 * second.change


def test_the_network_is_unchanged(network: ExportNetwork) -> None:
    before = deepcopy(network.state_dict())
    most_sensitive(network, IMAGES[:1], 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(part._forward_hooks for part in network.modules())


def test_boxes_and_masks_are_compared_too() -> None:
    network = ExportNetwork(small_model(*TASKS)).eval()
    found = {layer.name: layer.change for layer in most_sensitive(network, IMAGES[:2])}
    for name in ("heads.segmentation.classify", "heads.detection.classifiers.0.1", "heads.detection.regressors.0.1"):
        assert found[name] > 0
