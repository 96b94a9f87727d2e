"""Positive channels of the expansions: counted in another way, in theory, and in the published network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbv2kit.analysis.activations import BATCH, ActivationPattern, activation_patterns
from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import InvertedResidual
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.structures import Image
from mbv2kit.weights.open import open_model
from tests.norms import randomize_norms


def build(name: str = "mobilenet_v2", size: int = 64, **options: Any) -> VisionModel:
    return VisionModel(
        ModelSpec(
            backbone={"name": name, **options},
            heads={"classification": {"name": "classifier"}},
            class_names={"classification": ("cat", "dog")},
            input=Preprocess((size, size)),
        )
    )


def noise(count: int, size: int = 64) -> list[Image]:
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def test_the_statistics_of_a_pattern() -> None:
    counts = np.array([1, 1, 1, 2, 4, 4])
    pattern = ActivationPattern("layer_3", threshold=2, pixels=np.bincount(counts, minlength=7))
    assert pattern.channels == 6
    assert pattern.mean == pytest.approx(counts.mean())
    assert pattern.deviation == pytest.approx(counts.std())
    assert (pattern.min, pattern.max) == (1, 4)
    assert pattern.share_below == pytest.approx(3 / 6)


def test_it_counts_the_same_as_a_loop_over_the_blocks() -> None:
    model = build(width=0.35)
    randomize_norms(model)
    images = noise(BATCH + 3, size=50)
    patterns = activation_patterns(model, images)
    inputs = images_to_tensor([model.preprocess(image)[0] for image in images])
    current, expected = (inputs - model.mean) / model.std, {}
    with torch.no_grad():
        for name, layer in model.backbone.layers.items():
            if isinstance(layer, InvertedResidual):
                expansion = layer.expand(current)
                expected[name] = (expansion.permute(0, 2, 3, 1).flatten(0, 2) > 0).sum(dim=1)
                current = layer(current)[0]
            else:
                current = layer(current)
    assert [pattern.layer for pattern in patterns] == [f"layer_{number}" for number in range(3, 19)]
    for pattern in patterns:
        counts = expected[pattern.layer]
        assert pattern.channels == 6 * pattern.threshold
        assert pattern.pixels.sum() == len(counts)
        assert pattern.mean == pytest.approx(counts.double().mean().item(), rel=1e-4)
        assert pattern.share_below == pytest.approx((counts < pattern.threshold).double().mean().item(), abs=1e-3)


def test_hooks_are_removed_and_weights_unchanged() -> None:
    model = build(width=0.35)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = activation_patterns(model, noise(2))
    second = activation_patterns(model, noise(2))
    assert all((a.pixels == b.pixels).all() for a, b in zip(first, second, strict=True))
    assert not any(part._forward_hooks for part in model.modules())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_half_of_the_untrained_channels_are_positive() -> None:
    """For any input, half of all random weights make a channel positive (step 0 in the paper)."""
    shares = []
    for seed in range(4):
        torch.manual_seed(seed)
        patterns = activation_patterns(build(zero_init_residual=False), noise(1))
        shares.append([pattern.mean / pattern.channels for pattern in patterns])
        assert all(pattern.share_below == 0 for pattern in patterns)
    for share, pattern in zip(np.mean(shares, axis=0), patterns, strict=True):
        # Channels are independent of one another; pixels of one network are not.
        assert share == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(shares) * pattern.channels))


def test_a_backbone_without_expansions_and_no_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"Backbone 'mobilenet_v1' has no expansions; use mobilenet_v2\."):
        activation_patterns(build("mobilenet_v1", width=0.25), noise(1))
    with pytest.raises(UserError, match="give at least one"):
        activation_patterns(build(width=0.35), [])


@pytest.mark.slow
def test_in_the_published_network_counts_spread_and_nearly_all_stay_invertible(shared_data: Path) -> None:
    trained, _ = open_model(str(shared_data / "weights" / "mobilenet_v2_1.0_224_quant.tflite"))
    images = [decode(path) for path in sorted((shared_data / "imagenet_samples" / "val").glob("*/*"))[::10]]
    spec = replace(trained.spec, backbone={**trained.spec.backbone, "zero_init_residual": False})
    before = activation_patterns(VisionModel(spec), images)
    after = activation_patterns(trained, images)
    for pattern in before:
        assert pattern.mean / pattern.channels == pytest.approx(0.5, abs=0.1)
        assert pattern.share_below == 0
    wider = sum(b.max - b.min < a.max - a.min for b, a in zip(before, after, strict=True))
    assert wider >= 14
    assert np.mean([a.deviation / b.deviation for b, a in zip(before, after, strict=True)]) > 2
    below = {pattern.layer for pattern in after if pattern.share_below > 0}
    assert below == {"layer_15", "layer_18"}
