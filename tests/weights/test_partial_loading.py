import re

import torch
from rich.console import Console
from torch import nn

from mbv2kit.weights.partial_loading import load_tensors


def network(classes: int = 3) -> nn.Module:
    return nn.ModuleDict(
        {
            "backbone": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
            "head": nn.ModuleDict({"hidden": nn.Linear(4, 4), "classify": nn.Linear(4, classes)}),
        }
    )


def table(model: nn.Module, tensors: dict[str, torch.Tensor]) -> list[list[str]]:
    """Returns the rows of the table that loading the tensors gives."""
    console = Console(width=120)
    with console.capture() as capture:
        console.print(load_tensors(model, tensors).table())
    return [re.split(r"  +", line.strip()) for line in capture.get().splitlines() if line.strip("─ \n")]


def test_fitting_tensors_are_loaded_and_the_rest_is_unchanged() -> None:
    model, other = network(3), network(5)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {**other.state_dict(), "neck.weight": torch.zeros(2)}
    del tensors["head.hidden.bias"]
    report = load_tensors(model, tensors)
    kept = {"head.hidden.bias", "head.classify.weight", "head.classify.bias"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name in kept else other.state_dict()[name])
    assert set(report.missing) == kept
    assert report.missing["head.hidden.bias"] == "the weights have none"
    assert report.skipped == {
        "head.classify.weight": "5 x 4 in the weights, 3 x 4 here; stays fresh",
        "head.classify.bias": "5 in the weights, 3 here; stays fresh",
        "neck.weight": "this model has no such part",
    }
    # Every tensor of either side is accounted for.
    assert set(report.loaded) | set(report.skipped) == set(tensors)
    assert set(report.loaded) | set(report.missing) == set(fresh)


def test_the_table_merges_tensors_with_the_same_outcome() -> None:
    model = network(3)
    tensors = {name: tensor for name, tensor in network(5).state_dict().items() if not name.startswith("head.hidden")}
    assert table(model, tensors) == [
        ["part", "tensors", "outcome"],
        ["backbone", "7", "loaded"],
        ["head.hidden", "2", "missing, stay fresh: the weights have none"],
        ["head.classify.weight", "1", "skipped: 5 x 4 in the weights, 3 x 4 here; stays fresh"],
        ["head.classify.bias", "1", "skipped: 5 in the weights, 3 here; stays fresh"],
    ]


def test_the_table_merges_parts_that_differ_in_a_number() -> None:
    model, other = (
        nn.ModuleDict({part: nn.ModuleList([nn.Linear(1, 1) for _ in range(count)]) for part in ("near", "far")})
        for count in (6, 12)
    )
    tensors = {name: tensor for name, tensor in other.state_dict().items() if not name.startswith("near.4.")}
    tensors["far.0.bias"] = torch.zeros(2)
    assert table(model, tensors) == [
        ["part", "tensors", "outcome"],
        ["near.{0-3,5}", "10", "loaded"],
        ["near.4", "2", "missing, stay fresh: the weights have none"],
        ["near.{6-11}", "12", "skipped: this model has no such part"],
        ["far.0.weight", "1", "loaded"],
        ["far.0.bias", "1", "skipped: 2 in the weights, 1 here; stays fresh"],
        ["far.{1-5}", "10", "loaded"],
        ["far.{6-11}", "12", "skipped: this model has no such part"],
    ]


def test_values_are_copied_not_shared() -> None:
    model, other = network(), network()
    load_tensors(model, other.state_dict())
    other.state_dict()["backbone.0.weight"].fill_(7)
    assert not (model.state_dict()["backbone.0.weight"] == 7).any()
