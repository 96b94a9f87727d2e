from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.start import is_folded, load_weights, unfold_norms
from tests.norms import randomize_norms
from tests.training.test_task import training_batch


def spec(classes: int = 4, mean: float = 128.0, **backbone: Any) -> ModelSpec:
    return ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35, **backbone},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": tuple(f"class_{k}" for k in range(classes))},
        input=Preprocess((64, 64), "crop"),
        mean=(mean,) * 3,
    )


def test_loading_says_what_became_of_every_tensor(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model, start = VisionModel(spec(4)), VisionModel(spec(9))
    fresh = model.heads["classification"].linear.weight.clone()  # type: ignore[union-attr, operator]
    load_weights(model, start, "theirs.pth")
    ours = model.state_dict()
    for name, tensor in start.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(ours[name], tensor)
    assert torch.equal(ours["heads.classification.linear.weight"], fresh)
    assert "class_names=FILE must name the classes of the weights, which number them; stays fresh" in caplog.text


def test_other_tensors_of_the_file_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    start = VisionModel(replace(spec(), origin={"left_out": ["aux.0.weight", "aux.1.weight"]}))
    load_weights(VisionModel(spec()), start, "theirs.pth")
    assert "aux" in caplog.text
    assert "not supported by any network" in caplog.text


def test_weights_of_which_nothing_fits_are_refused() -> None:
    with pytest.raises(UserError, match=r"weights=theirs: none of them fits the backbone"):
        load_weights(VisionModel(spec()), VisionModel(spec(width=5.0, fixed_ends=False)), "theirs")


def folded(model: VisionModel) -> VisionModel:
    """The same function with every batch norm folded into its convolution and a norm that only adds behind it."""
    for part in list(model.modules()):
        conv, norm = getattr(part, "conv", None), getattr(part, "norm", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            with torch.no_grad():
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                conv.weight *= scale[:, None, None, None]
                norm.bias.sub_(norm.running_mean * scale)
                norm.weight.fill_(1)
                norm.running_mean.fill_(0)
                norm.running_var.fill_(1 - norm.eps)
    return model


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]


def test_unfolding_changes_nothing_in_use_and_makes_training_see_the_same() -> None:
    model = VisionModel(spec()).eval()
    randomize_norms(model)
    batch = training_batch("classification")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)

    def see(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(images)["classification"]["logits"]
            return logits

    before, before_on_batch = see(images), see(batch.images)
    folded(model)
    assert all(is_folded(norm) for norm in norms(model))
    assert unfold_norms(model, [batch]) == 52
    assert not any(is_folded(norm) for norm in norms(model))
    torch.testing.assert_close(see(images), before, atol=1e-4, rtol=1e-3)
    model.backbone.train()
    torch.testing.assert_close(see(batch.images), before_on_batch, atol=1e-4, rtol=1e-3)


def test_without_unfolding_training_would_begin_with_another_network() -> None:
    model = folded(VisionModel(spec()).eval())
    images = training_batch("classification").images
    with torch.no_grad():
        before = model(images)["classification"]["logits"]
        model.backbone.train()
        assert (model(images)["classification"]["logits"] - before).abs().max() > before.abs().max()


def test_fresh_norms_and_trained_ones_are_not_folded() -> None:
    model = VisionModel(spec())
    assert not any(is_folded(norm) for norm in norms(model))
    unread = iter([training_batch("classification")])
    assert unfold_norms(model, unread) == 0
    assert len(list(unread)) == 1, "no image need be seen where there is nothing to measure"
