from math import log

import numpy as np
import pytest
import torch
from torch import nn

from mbv2kit.heads.classifier import Classifier
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import Classification

FEATURES = [FeatureInfo("near", 4, 16), FeatureInfo("far", 6, 32)]


def test_the_last_map_is_pooled_and_scored() -> None:
    head = Classifier(FEATURES, 5).eval()
    assert head.features == ("far",)
    far = torch.randn(2, 6, 3, 7)
    logits = head({"far": far})["logits"]
    expected = far.flatten(2).mean(dim=2) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(logits, expected)


def test_dropout_acts_in_training_only() -> None:
    head = Classifier(FEATURES, 5, dropout=0.5)
    nn.init.ones_(head.linear.weight)
    far = torch.ones(400, 6, 2, 2)
    scores = head({"far": far})["logits"][:, 0]
    assert set(scores.tolist()) <= {0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0}
    assert scores.mean().item() == pytest.approx(6.0, abs=0.5)
    assert head.eval()({"far": far})["logits"].unique(dim=0).tolist() == [[6.0] * 5]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_with_a_share_for_every_class(smoothing: float) -> None:
    head = Classifier(FEATURES, 3, label_smoothing=smoothing)
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    losses = head.loss({"logits": logits}, {"label": torch.tensor([1, 0])})
    expected = 0.0
    for row, label in zip(logits.tolist(), [1, 0], strict=True):
        total = sum(np.exp(row))
        for class_id, value in enumerate(row):
            share = smoothing / 3 + (1 - smoothing) * (class_id == label)
            expected -= share * log(np.exp(value) / total) / 2
    assert losses.keys() == {"classification"}
    assert losses["classification"].item() == pytest.approx(expected, rel=1e-5)


def test_decoding_ranks_all_classes_and_the_first_of_equals_comes_first() -> None:
    raw = {"logits": torch.tensor([[0.0, 2.0, 2.0, 1.0], [5.0, 0.0, 0.0, 0.0]], dtype=torch.bfloat16)}
    first, second = Classifier(FEATURES, 4).decode(raw, (8, 8))
    assert isinstance(first, Classification)
    assert isinstance(second, Classification)
    assert first.class_ids.tolist() == [1, 2, 3, 0]
    assert second.class_ids.tolist() == [0, 1, 2, 3]
    exponentials = np.exp([2.0, 2.0, 1.0, 0.0])
    np.testing.assert_allclose(first.scores, exponentials / exponentials.sum(), rtol=1e-5)
    assert first.scores.dtype == np.float32


def test_a_background_is_scored_but_never_the_answer() -> None:
    head = Classifier(FEATURES, 3, background=True)
    assert head.linear.out_features == 4
    logits = torch.tensor([[9.0, 1.0, 2.0, 0.0]])
    (seen,) = head.decode({"logits": logits}, (64, 64))
    assert isinstance(seen, Classification)
    assert seen.class_ids.tolist() == [1, 0, 2]
    np.testing.assert_allclose(seen.scores, logits.softmax(dim=1)[0, [2, 1, 3]].numpy(), rtol=1e-6)
    loss = head.loss({"logits": logits}, {"label": torch.tensor([1])})["classification"]
    assert loss.item() == pytest.approx(-logits.log_softmax(dim=1)[0, 2].item())
