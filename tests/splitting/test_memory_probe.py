"""Compares the probe with counts by hand."""

import pytest
import torch
from torch import nn

from mbv2kit.splitting.memory_probe import MemoryProbe


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_memory_counts_from_its_allocation_until_it_is_freed(device: str) -> None:
    held = torch.zeros(10, device=device)
    with torch.no_grad(), MemoryProbe([held]) as probe:
        assert probe.current == 40
        first = torch.zeros(100, device=device)
        second = first + 1
        assert probe.current == 840
        view = second.view(10, 10)[:, :5]
        del second
        assert probe.current == 840
        first.add_(1)
        assert probe.current == 840
        del view
        assert probe.current == 440
        del first
        assert (probe.current, probe.peak) == (40, 840)


def test_parameters_and_views_of_them_do_not_count() -> None:
    linear = nn.Linear(100, 7)
    x = torch.zeros(1, 100)
    with torch.no_grad(), MemoryProbe() as probe:
        linear(x)
    assert probe.peak == 28


def test_all_outputs_of_an_operator_count() -> None:
    with torch.no_grad(), MemoryProbe() as probe:
        values, indices = torch.zeros(4, 8).max(dim=1)
    assert probe.current == 4 * 4 + 4 * 8
    assert values.shape == indices.shape
