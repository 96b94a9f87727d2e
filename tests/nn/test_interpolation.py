import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mbv2kit.nn.interpolation import enlarge, interpolation_matrix


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("source", "target"), [((33, 33), (513, 513)), ((5, 9), (64, 70)), ((1, 3), (7, 3)), ((9, 4), (4, 2))]
)
def test_it_is_torchs_interpolation(source: tuple[int, int], target: tuple[int, int], align_corners: bool) -> None:
    maps = torch.randn(2, 3, *source, dtype=torch.float64)
    expected = F.interpolate(maps, target, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(enlarge(maps, target, align_corners=align_corners), expected, rtol=0, atol=1e-12)


def test_gradients_are_torchs_too() -> None:
    maps = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 2, 13, 17, dtype=torch.float64)
    ours = torch.autograd.grad((enlarge(maps, (13, 17), align_corners=True) * weights).sum(), maps)
    theirs = torch.autograd.grad(
        (F.interpolate(maps, (13, 17), mode="bilinear", align_corners=True) * weights).sum(), maps
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("align_corners", [True, False])
def test_every_row_of_weights_adds_up_to_one(align_corners: bool) -> None:
    matrix = interpolation_matrix(7, 30, align_corners=align_corners)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
