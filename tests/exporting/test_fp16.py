import pytest
import torch
from torch import nn

from mbv2kit.exporting.fp16 import round_to
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.structures import TASKS
from tests.exporting.models import small_model

FP16 = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def network() -> ExportNetwork:
    return ExportNetwork(small_model(*TASKS, padding="tf_same")).eval()


def layers_of(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("dtype", FP16)
@torch.no_grad()
def test_rounded_weights_have_that_type_and_keep_their_sums(network: ExportNetwork, dtype: torch.dtype) -> None:
    for exact, rounded in zip(layers_of(network), layers_of(round_to(network, dtype)), strict=True):
        weights = exact.weight.flatten(1).double()
        found, nearest = rounded.weight.flatten(1).double(), weights.to(dtype).double()
        assert torch.equal(found.to(dtype).double(), found)
        # At most two numbers further than the nearest one.
        step = torch.finfo(dtype).eps * weights.abs() + torch.finfo(dtype).smallest_normal
        assert ((found - weights).abs() <= 2.5 * step).all()
        sums, worse = (found - weights).sum(dim=1).abs(), (nearest - weights).sum(dim=1).abs()
        assert (sums <= worse).all()
        assert sums.mean() < 0.2 * worse.mean()
        assert torch.equal(rounded.bias, exact.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", FP16)
@torch.no_grad()
def test_equal_errors_are_rounded_up_as_often_as_the_sum_needs(dtype: torch.dtype) -> None:
    network = ExportNetwork(small_model("classification")).eval()
    kernel = next(layer for layer in layers_of(network) if layer.weight[0].numel() == 9)
    step = torch.finfo(dtype).eps
    kernel.weight.fill_(1 + 0.4 * step)
    (after,) = (
        copy.weight
        for layer, copy in zip(layers_of(network), layers_of(round_to(network, dtype)), strict=True)
        if layer is kernel
    )
    # 9 x 0.4 steps are 3.6.
    assert torch.equal(after.flatten(1).sort().values, torch.tensor([1.0] * 5 + [1 + step] * 4).expand(len(after), 9))
