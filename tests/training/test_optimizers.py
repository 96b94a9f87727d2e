"""RMSprop against TensorFlow's rule written down once more in numpy, and who decays."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from numpy.typing import NDArray
from torch import nn

from mbv2kit.errors import UserError
from mbv2kit.training.optimizers import OPTIMIZERS, create_optimizer, parameter_groups
from mbv2kit.training.optimizers.rmsprop import RMSprop

Array = NDArray[np.float64]


def tensorflow_rmsprop(
    weight: Array, gradients: list[Array], lr: float, decay: float, momentum: float, eps: float
) -> list[Array]:
    """tf.compat.v1.train.RMSPropOptimizer: ms starts at one, mom at zero, epsilon is inside the root."""
    ms, mom = np.ones_like(weight), np.zeros_like(weight)
    path = []
    for gradient in gradients:
        ms = decay * ms + (1 - decay) * gradient**2
        mom = momentum * mom + lr * gradient / np.sqrt(ms + eps)
        weight = weight - mom
        path.append(weight)
    return path


@pytest.mark.parametrize(
    ("lr", "decay", "momentum", "eps"), [(0.045, 0.9, 0.9, 1.0), (0.5, 0.5, 0.0, 1e-3), (0.01, 0.99, 0.5, 0.002)]
)
def test_rmsprop_is_tensorflows(lr: float, decay: float, momentum: float, eps: float) -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 4)), [rng.normal(scale=3, size=(3, 4)) for _ in range(8)]
    weight = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = RMSprop([weight], lr=lr, weight_decay=0.0, decay=decay, momentum=momentum, eps=eps)
    path = tensorflow_rmsprop(start, gradients, lr, decay, momentum, eps)
    for gradient, expected in zip(gradients, path, strict=True):
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12)


def test_a_changed_learning_rate_leaves_the_momentum_as_it_was_built_up() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RMSprop([weight], lr=1.0, weight_decay=0.0, decay=0.0, momentum=0.5, eps=0.0)
    for lr in (1.0, 0.0):
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    # The second step moves by half of the first, though its own rate is 0.
    assert weight.item() == -1.5


def test_weight_decay_pulls_through_the_gradient() -> None:
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = RMSprop([weight], lr=0.1, decay=0.9, momentum=0.0, eps=1.0, weight_decay=0.5)
    weight.grad = torch.tensor([3.0], dtype=torch.float64)
    optimizer.step()
    gradient = 3 + 0.5 * 2
    assert weight.item() == pytest.approx(2 - 0.1 * gradient / np.sqrt(0.9 + 0.1 * gradient**2 + 1))
    assert weight.grad.item() == 3


def test_a_parameter_without_gradient_stays_with_its_state() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = RMSprop([weight])
    weight.grad = torch.ones(2)
    optimizer.step()
    held, state = weight.detach().clone(), {key: value.clone() for key, value in optimizer.state[weight].items()}
    weight.grad = None
    optimizer.step()
    assert torch.equal(weight, held)
    for key, value in state.items():
        assert torch.equal(optimizer.state[weight][key], value)


def test_the_state_survives_saving() -> None:
    def make() -> tuple[nn.Parameter, RMSprop]:
        weight = nn.Parameter(torch.ones(3))
        return weight, RMSprop([weight], lr=0.1)

    def step(weight: nn.Parameter, optimizer: RMSprop, k: int) -> None:
        weight.grad = torch.arange(3.0) * k
        optimizer.step()

    weight, optimizer = make()
    step(weight, optimizer, 1)
    other, restored = make()
    other.data.copy_(weight)
    restored.load_state_dict(deepcopy(optimizer.state_dict()))
    step(weight, optimizer, 2)
    step(other, restored, 2)
    assert torch.equal(weight, other)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, bias=True)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=True)
        self.multiplied = nn.Conv2d(8, 16, 3, groups=8, bias=False)
        self.grouped = nn.Conv2d(16, 16, 1, groups=4, bias=False)
        self.gray = nn.Conv2d(1, 4, 3, groups=1, bias=False)
        self.linear = nn.Linear(16, 2)


def test_norms_biases_and_depthwise_kernels_do_not_decay() -> None:
    model = Small()
    decaying, free = parameter_groups(model, lr=0.5, weight_decay=0.1)
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in decaying["params"]} == {
        "stem.weight",
        "grouped.weight",
        "gray.weight",
        "linear.weight",
    }
    everyone = [names[id(p)] for p in decaying["params"] + free["params"]]
    assert sorted(everyone) == sorted(names.values())


def test_everything_decays_where_that_is_asked_for() -> None:
    (group,) = parameter_groups(Small(), lr=0.5, weight_decay=0.1, everything=True)
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(Small().parameters()))


class BackboneAndHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 2)


def test_the_backbone_learns_at_a_rate_of_its_own() -> None:
    model = BackboneAndHead()
    groups = parameter_groups(model, lr=0.5, weight_decay=0.1, backbone_lr=0.2)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert {name: rates[id(p)] for name, p in model.named_parameters()} == {
        "backbone.0.weight": (pytest.approx(0.1), 0.1),
        "backbone.0.bias": (pytest.approx(0.1), 0.0),
        "backbone.1.weight": (pytest.approx(0.1), 0.0),
        "backbone.1.bias": (pytest.approx(0.1), 0.0),
        "head.weight": (0.5, 0.1),
        "head.bias": (0.5, 0.0),
    }


def test_frozen_parameters_are_left_out() -> None:
    model = BackboneAndHead()
    model.backbone.requires_grad_(False)
    groups = parameter_groups(model, lr=0.5, weight_decay=0.1)
    assert [parameter for group in groups for parameter in group["params"]] == [model.head.weight, model.head.bias]
    model.requires_grad_(False)
    with pytest.raises(UserError, match="Nothing is left to train"):
        create_optimizer(model, {"name": "sgd", "lr": 0.1, "weight_decay": 0.0, "decay_norm_bias_depthwise": False})


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"name": "rmsprop", "lr": 0.1, "decay": 0.9, "momentum": 0.9, "eps": 1.0}, RMSprop),
        ({"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True}, torch.optim.SGD),
        ({"name": "adamw", "lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-8}, torch.optim.AdamW),
    ],
)
def test_an_optimizer_is_built_from_its_config(config: dict[str, object], kind: type) -> None:
    optimizer = create_optimizer(Small(), {**config, "weight_decay": 0.25, "decay_norm_bias_depthwise": False})
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0]
    assert all(group["lr"] == 0.1 for group in optimizer.param_groups)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_lightning_unscales_and_clips_the_gradients_of_every_optimizer(name: str) -> None:
    optimizer = create_optimizer(nn.Linear(2, 1), {"name": name})
    plugin = MixedPrecision("bf16-mixed", "cpu")
    optimizer.param_groups[0]["params"][0].grad = torch.tensor([[3.0, 4.0]])
    plugin.clip_gradients(optimizer, 1.0)
    assert torch.linalg.vector_norm(optimizer.param_groups[0]["params"][0].grad) == pytest.approx(1.0, rel=1e-5)


def test_a_key_that_a_config_leaves_out_keeps_its_default() -> None:
    optimizer = create_optimizer(Small(), {"name": "sgd", "momentum": 0.5})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [4e-5, 0.0]
    assert {(group["lr"], group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {
        (0.05, 0.5, True)
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "rmsprpo"}, r"There is no optimizer 'rmsprpo'\. Did you mean 'rmsprop'\?"),
        ({"name": None}, r"optimizer\.name must be text, got null\."),
        ({"nesterov": True}, "optimizer 'rmsprop' has no option 'nesterov'"),
        ({"momentun": 0.5}, r"optimizer 'rmsprop' has no option 'momentun'\. Did you mean 'momentum'\?"),
        ({"lr": "fast"}, "optimizer.lr must be a number from 0 to 1,000, got 'fast'"),
        ({"lr": None}, "optimizer.lr must be a number from 0 to 1,000, got null"),
        ({"lr": -1}, "optimizer.lr must be a number from 0 to 1,000, got -1"),
        ({"lr": float("nan")}, "optimizer.lr must be a number from 0 to 1,000, got nan"),
        ({"eps": -1}, "optimizer.eps must be a number from 0 to 1,000, got -1"),
        ({"momentum": 1}, "optimizer.momentum must be a number from 0 up and below 1, got 1"),
        ({"decay": -0.1}, "optimizer.decay must be a number from 0 up and below 1, got -0.1"),
        ({"weight_decay": -1e-5}, "optimizer.weight_decay must be a number from 0 to 1,000, got -1e-05"),
        ({"name": "adamw", "betas": [0.9, 2]}, r"optimizer.betas must be a list of 2, .* below 1, got \[0.9, 2\]"),
        (
            {"name": "sgd", "momentum": 0, "nesterov": True},
            "optimizer 'sgd': nesterov needs a momentum above 0, got momentum=0",
        ),
    ],
)
def test_a_wrong_config_is_told(changes: dict[str, object], message: str) -> None:
    config = {"name": "rmsprop", "lr": 0.1, "weight_decay": 0.0, "decay_norm_bias_depthwise": False, **changes}
    with pytest.raises(UserError, match=message):
        create_optimizer(Small(), config)
