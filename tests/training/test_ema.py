import copy

import pytest
import torch
from torch import nn

from mbv2kit.training.ema import WeightAverage


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()


def move(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


COUNTS = torch.tensor(True)


def same(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_it_starts_as_a_copy_that_shares_nothing(model: nn.Sequential) -> None:
    average = WeightAverage(model, 0.9)
    assert same(average.model, model)
    kept = copy.deepcopy(average.model)
    move(model, 1.0)
    assert same(average.model, kept)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.9999])
def test_it_is_the_weighted_sum_of_what_it_saw(decay: float) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    values = [1.0, 5.0, -3.0, 8.0, 0.5, 2.0, 7.0]
    model.weight.data.fill_(values[0])
    average = WeightAverage(model, decay)
    for value in values[1:]:
        model.weight.data.fill_(value)
        average.update(model, COUNTS)

    kept = [min(decay, (1 + n) / (10 + n)) for n in range(1, len(values))]
    expected = 0.0
    for index, value in enumerate(values):
        weight = 1.0 if index == 0 else 1 - kept[index - 1]
        for later in kept[index:]:
            weight *= later
        expected += weight * value
    averaged = average.model
    assert isinstance(averaged, nn.Linear)
    assert averaged.weight.item() == pytest.approx(expected, rel=1e-12)
    assert average.updates == len(values) - 1


def test_a_step_that_does_not_count_changes_nothing(model: nn.Sequential) -> None:
    average = WeightAverage(model, 0.9)
    move(model, 1.0)
    average.update(model, COUNTS)
    before = copy.deepcopy(average)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    average.update(model, ~COUNTS)
    assert same(average, before)


def test_an_update_leaves_the_model_as_it_is(model: nn.Sequential) -> None:
    average = WeightAverage(model, 0.9)
    move(model, 1.0)
    kept = copy.deepcopy(model)
    average.update(model, COUNTS)
    assert same(model, kept)
    assert model.training
    assert not same(average.model, model)


def test_batch_norm_statistics_are_copied(model: nn.Sequential) -> None:
    average = WeightAverage(model, 0.9)
    for _ in range(3):
        model(torch.randn(4, 3, 2, 2))
        average.update(model, COUNTS)
    followed, following = dict(model.named_buffers()), dict(average.model.named_buffers())
    assert followed["1.num_batches_tracked"] == 3
    for name, buffer in followed.items():
        assert torch.equal(following[name], buffer)


def test_it_is_never_trained(model: nn.Sequential) -> None:
    parent = nn.ModuleDict({"model": model, "average": WeightAverage(model, 0.9)})
    parent.train()
    assert model.training
    assert not any(module.training for module in parent["average"].modules())
    assert not any(parameter.requires_grad for parameter in parent["average"].parameters())


def test_it_goes_on_from_what_was_saved(model: nn.Sequential) -> None:
    average = WeightAverage(model, 0.9999)
    for _ in range(5):
        move(model, 1.0)
        average.update(model, COUNTS)
    restored = WeightAverage(model, 0.9999)
    restored.load_state_dict(average.state_dict())
    move(model, 1.0)
    for each in (average, restored):
        each.update(model, COUNTS)
    assert restored.updates == 6
    assert same(restored, average)
