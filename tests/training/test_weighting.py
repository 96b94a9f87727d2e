"""How several losses become one, and how their gradients compare."""

import math

import pytest
import torch
from torch import nn

from mbv2kit.errors import UserError
from mbv2kit.evaluation import Scores, combine
from mbv2kit.structures import Task
from mbv2kit.training.pulls import measure_pulls
from mbv2kit.training.weighting import UncertaintyWeights, create_weights

LOSSES: dict[str, torch.Tensor] = {"classification": torch.tensor(2.0), "detection": torch.tensor(10.0)}
TASKS: list[Task] = ["classification", "detection"]


def test_fixed_weights_add_up() -> None:
    assert create_weights(None, TASKS)(LOSSES) == 12
    assert create_weights({"detection": 0.5}, TASKS)(LOSSES) == 7


def test_uncertainty_is_learned_as_the_logarithm_of_the_loss() -> None:
    weights = create_weights("uncertainty", TASKS)
    assert isinstance(weights, UncertaintyWeights)
    assert weights(LOSSES) == 12
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        weights(LOSSES).backward()
        optimizer.step()
    # exp(-s) L + s / 2 is least where exp(s) = 2 L.
    learned = {task: float(value.detach()) for task, value in weights.log_variances.items()}
    assert learned == pytest.approx({"classification": math.log(4), "detection": math.log(20)}, abs=1e-3)


def test_a_weight_of_no_head_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"loss_weights\.segmentation: the model has no such head"):
        create_weights({"segmentation": 1.0}, TASKS)
    with pytest.raises(UserError, match=r"loss_weights must be uncertainty, null, or a weight for each head"):
        create_weights("unsure", TASKS)


def test_pulls_are_measured_on_the_last_shared_layer() -> None:
    last = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(last.weight)
    shared = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 3, bias=False), last)
    images = torch.tensor([[1.0, 2.0]])
    middle = shared[1](shared[0](images))
    # The last layer serves one head alone.
    losses: dict[str, torch.Tensor] = {
        "classification": 3 * middle[0, 0] + last(middle).sum(),
        "detection": -2 * middle[0, 0] + 0 * middle[0, 1],
        "segmentation": middle[0, 1],
    }
    pulls = measure_pulls(losses, shared)
    size = float(shared[0](images).detach().norm())
    assert pulls == pytest.approx(
        {
            "pull/norm/classification": 3 * size,
            "pull/norm/detection": 2 * size,
            "pull/norm/segmentation": size,
            "pull/cosine/classification/detection": -1,
            "pull/cosine/classification/segmentation": 0,
            "pull/cosine/detection/segmentation": 0,
        },
        abs=1e-6,
    )
    # Nothing is left in the gradients, and the losses can still be differentiated.
    assert all(parameter.grad is None for parameter in shared.parameters())
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]


def test_one_head_pulls_at_nothing_that_is_shared() -> None:
    layer = nn.Linear(1, 1)
    assert measure_pulls({"detection": layer(torch.ones(1, 1)).sum()}, layer) == {}
    frozen = nn.Linear(1, 1).requires_grad_(False)
    assert measure_pulls(dict.fromkeys(TASKS, torch.tensor(1.0)), frozen) == {}


def test_the_mean_is_over_what_each_head_reaches_of_its_reference() -> None:
    scores: dict[str, Scores] = {
        "classification": Scores({"top1": 0.8, "top5": 1.0}, {"cat": {"top1": 0.8}}),
        "detection": Scores({"AP": 0.2, "AP50": 0.5}, {"cat": {"AP": 0.2}}, ("No small object.",)),
    }
    together = combine(scores)
    assert together.metrics == {"mean": 0.5, "top1": 0.8, "top5": 1.0, "AP": 0.2, "AP50": 0.5}
    assert together.per_class == {"classification/cat": {"top1": 0.8}, "detection/cat": {"AP": 0.2}}
    assert together.notes == ("detection: No small object.",)
    assert combine(scores, {"detection": 0.4}).metrics["mean"] == pytest.approx((0.8 + 0.5) / 2)
    unknown = scores | {"detection": Scores({"AP": math.nan}, {})}
    assert combine(unknown).metrics["mean"] == 0.8
