"""Gradients of several losses on what they share: combined as the methods promise, untouched on the heads."""

import sys

import pytest
import torch
from torch import nn

from mbv2kit.errors import UserError
from mbv2kit.training.gradients import GradientCombination, Method

METHODS: tuple[Method, ...] = ("pcgrad", "upgrad", "mgda")


def combined(method: Method, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the combination of two gradients, and the gradient of a head's own weight."""
    shared, own = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))
    unused = nn.Parameter(torch.ones(3))
    combination = GradientCombination(method, [shared, unused], [own])
    combination.backward([(shared * one).sum() * own / 3, (shared * other).sum()])
    assert shared.grad is not None
    assert own.grad is not None
    assert unused.grad is not None
    assert not unused.grad.any()
    return shared.grad, own.grad


@pytest.mark.parametrize("method", METHODS)
def test_the_combination_worsens_neither_loss(method: Method) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        one, other = torch.randn(2, 2, generator=generator)
        gradient, own = combined(method, one, other)
        assert min(float(gradient @ one), float(gradient @ other)) >= -1e-3
        assert float(own) == pytest.approx(float((torch.tensor([1.0, 2.0]) * one).sum() / 3), rel=1e-5)


def test_known_combinations() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    # Each loses its part along the other: (1, 0) -> (0.5, 0.5), (-1, 1) -> (0, 1).
    torch.testing.assert_close(combined("pcgrad", one, other)[0], torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(combined("upgrad", one, other)[0], torch.tensor([0.25, 0.75]), atol=1e-3, rtol=1e-3)
    # The point nearest to 0 on the line from one to the other.
    torch.testing.assert_close(combined("mgda", one, other)[0], torch.tensor([0.2, 0.4]), atol=1e-2, rtol=1e-2)


def test_gradients_that_agree_are_added_or_averaged() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    torch.testing.assert_close(combined("pcgrad", one, other)[0], one + other)
    torch.testing.assert_close(combined("upgrad", one, other)[0], (one + other) / 2, atol=1e-3, rtol=1e-3)


def test_gradients_have_the_memory_layout_of_their_parameters() -> None:
    kernel = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    values = torch.randn(4, 3, 2, 2)
    own = nn.Parameter(torch.ones(()))
    GradientCombination("pcgrad", [kernel], [own]).backward([(kernel * values).sum() * own, (kernel * values).sum()])
    assert kernel.grad is not None
    assert kernel.grad.stride() == kernel.stride()
    torch.testing.assert_close(kernel.grad, 2 * values)


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(UserError, match=r"gradients=upgrad needs the package torchjd: pip install 'mbv2kit"):
        GradientCombination("upgrad", [], [])
