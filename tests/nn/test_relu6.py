"""ReLU6 in training: torch's numbers, in less memory."""

import torch
from torch import Tensor, nn

from mbv2kit.nn.relu6 import ReLU6


def layers(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), activation, nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))


def run(activation: nn.Module, *, frozen: bool = False) -> tuple[Tensor, list[Tensor | None], int]:
    """Returns the output, the gradients, and the bytes that are kept for them."""
    network, kept = layers(activation), dict[int, int]()
    network[1].train(not frozen)

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # Wide enough that both ends clip.
    images = 9 * torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)
    output.square().sum().backward()
    return output.detach(), [parameter.grad for parameter in network.parameters()], sum(kept.values())


def test_training_computes_what_torchs_relu6_computes_and_keeps_a_map_less() -> None:
    for frozen in (False, True):
        output, gradients, kept = run(ReLU6(), frozen=frozen)
        wanted, wanted_gradients, wanted_kept = run(nn.ReLU6(), frozen=frozen)
        assert torch.equal(output, wanted)
        assert all(torch.equal(a, b) for a, b in zip(gradients, wanted_gradients, strict=True))  # type: ignore[arg-type]
        assert wanted_kept - kept == 2 * 8 * 16 * 16 * 4


def test_the_corners_have_the_gradient_of_torch() -> None:
    values = torch.tensor([-1.0, 0.0, 1e-45, 3.0, 6.0, 7.0, torch.inf, -torch.inf])
    found = []
    for activation in (ReLU6(), nn.ReLU6()):
        leaf = values.clone().requires_grad_()
        activation(leaf * 1).sum().backward()
        found.append(leaf.grad)
    assert found[0] is not None
    assert found[0].tolist() == found[1].tolist()  # type: ignore[union-attr]


def test_evaluation_and_frozen_layers_leave_the_input_alone() -> None:
    values = torch.tensor([-1.0, 7.0])
    assert ReLU6()(values).tolist() == [0, 6]
    assert ReLU6().eval()(values.clone().requires_grad_() * 1).tolist() == [0, 6]
    assert values.tolist() == [-1, 7]
