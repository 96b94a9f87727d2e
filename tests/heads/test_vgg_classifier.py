from typing import Any

import pytest
import torch
from torch import nn

from mbv2kit.heads import HEADS
from mbv2kit.heads.classifier import Classifier
from mbv2kit.heads.vgg_classifier import VGGClassifier
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import Classification

FEATURES = [FeatureInfo("near", 4, 16), FeatureInfo("far", 2, 32)]


def on_meta(*, channels: int = 512, num_classes: int = 1000) -> VGGClassifier:
    """A head that knows shapes but holds no numbers."""
    with torch.device("meta"):
        return VGGClassifier([FeatureInfo("pool5", channels, 32)], num_classes)


def test_with_the_convolutions_it_has_as_many_parameters_as_the_paper_says() -> None:
    parameters = sum(tensor.numel() for tensor in on_meta().parameters())
    assert parameters + 14_714_688 == 138_357_544


@pytest.mark.parametrize("size", [(7, 7), (14, 21)])
def test_cells_go_through_two_hidden_layers(size: tuple[int, int]) -> None:
    head = VGGClassifier(FEATURES, 5).eval()
    assert head.features == ("far",)
    for layer in (head.hidden_1, head.hidden_2, head.linear):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.normal_(layer.bias, std=0.3)
    far = torch.randn(3, 2, *size)
    with torch.no_grad():
        logits = head({"far": far})["logits"]
        rows, columns = size[0] // 7, size[1] // 7
        cells = far.reshape(3, 2, 7, rows, 7, columns).mean(dim=(3, 5)).flatten(1)
        first = (cells @ head.hidden_1.weight.T + head.hidden_1.bias).clamp(min=0)
        second = (first @ head.hidden_2.weight.T + head.hidden_2.bias).clamp(min=0)
        torch.testing.assert_close(logits, second @ head.linear.weight.T + head.linear.bias)


def test_maps_of_every_size_are_pooled() -> None:
    head = on_meta(channels=2)
    for size in ((1, 1), (6, 7), (10, 31)):
        assert head({"pool5": torch.empty(2, 2, *size, device="meta")})["logits"].shape == (2, 1000)


def test_dropout_acts_on_both_hidden_layers_and_in_training_only() -> None:
    head = VGGClassifier(FEATURES, 1)
    with torch.no_grad():
        for layer in (head.hidden_1, head.hidden_2, head.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # One chain of single units: what comes out is 1, or each time 0 or doubled.
        head.hidden_1.bias[0] = 1.0
        head.hidden_2.weight[0, 0] = 1.0
        head.linear.weight[0, 0] = 1.0
        far = torch.zeros(400, 2, 7, 7)
        scores = head({"far": far})["logits"]
        assert set(scores.flatten().tolist()) == {0.0, 4.0}
        assert (scores == 4).float().mean().item() == pytest.approx(0.25, abs=0.08)
        assert head.eval()({"far": far})["logits"].unique().tolist() == [1.0]


def test_loss_and_predictions_are_those_of_the_classifier() -> None:
    options: dict[str, Any] = {"label_smoothing": 0.1, "background": True}
    head, other = VGGClassifier(FEATURES, 3, **options), Classifier(FEATURES, 3, **options)
    assert isinstance(head, Classifier)
    assert head.linear.out_features == 4
    raw, targets = {"logits": torch.randn(2, 4)}, {"label": torch.tensor([0, 2])}
    assert head.loss(raw, targets) == other.loss(raw, targets)
    for found, expected in zip(head.decode(raw, (8, 8)), other.decode(raw, (8, 8)), strict=True):
        assert isinstance(found, Classification)
        assert isinstance(expected, Classification)
        assert found.class_ids.tolist() == expected.class_ids.tolist()
        assert found.scores.tolist() == expected.scores.tolist()


def test_options_are_those_of_the_classifier_with_the_papers_dropout() -> None:
    assert HEADS.options("vgg_classifier") == {**HEADS.options("classifier"), "dropout": 0.5}
