import torch

from mbv2kit.nn.layers import ConvNormAct, ConvStyle, NormOptions
from mbv2kit.weights.norm_tensors import biases_into_norms
from tests.norms import randomize_norms


def test_a_norm_takes_over_the_bias_before_it() -> None:
    layer = ConvNormAct(3, 4, 1, style=ConvStyle(norm=NormOptions(norm_eps=1e-5))).eval()
    randomize_norms(layer)
    image, bias = torch.randn(1, 3, 5, 5), torch.randn(4)
    expected = layer.act(layer.norm(layer.conv(image) + bias[:, None, None]))
    tensors = {f"part.{name}": tensor for name, tensor in layer.state_dict().items()} | {"part.conv.bias": bias}
    moved = biases_into_norms(tensors, 1e-5, "a.pth")
    layer.load_state_dict({name.removeprefix("part."): tensor for name, tensor in moved.items()})
    torch.testing.assert_close(layer(image), expected)


def test_a_bias_without_a_norm_gets_one() -> None:
    layer = ConvNormAct(3, 4, 1, style=ConvStyle(norm=NormOptions(norm_eps=1e-3))).eval()
    image, bias = torch.randn(1, 3, 5, 5), torch.randn(4)
    expected = (layer.conv(image) + bias[:, None, None]).clamp(0, 6)
    moved = biases_into_norms({"part.conv.weight": layer.conv.weight, "part.conv.bias": bias}, 1e-3, "a.pth")
    layer.load_state_dict({name.removeprefix("part."): tensor for name, tensor in moved.items()}, strict=False)
    torch.testing.assert_close(layer(image), expected)
