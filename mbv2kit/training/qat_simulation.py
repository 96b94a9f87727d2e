"""Simulated int8: a model computes in floats what its exported int8 file computes in integers."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mbv2kit.exporting.rounding import round_to_int8
from mbv2kit.models.vision_model import VisionModel, copy_to_meta

# Share of the difference by which a range shrinks towards a newer batch with a narrower one.
FORGETTING = 0.01
LEVELS = 256

# Operations whose inputs are rounded: layers with weights, and sums and averages of maps.
_LAYERS = frozenset({torch.conv2d, F.linear})
_SUMS = frozenset({Tensor.add, Tensor.add_, torch.add})
_AVERAGES = frozenset({Tensor.mean, torch.mean, F.avg_pool2d, F.adaptive_avg_pool2d})
# Operations that are fused with the convolution before them.
_FUSED = frozenset({F.batch_norm, F.relu, Tensor.relu, F.hardtanh, F.leaky_relu})


class Int8Simulation(nn.Module):
    """Rounds the weights and activations of a model as an int8 export does, while gradients pass as if it did not.

    A weight lies on a symmetric grid of its output channel. This needs no folding of batch norms, since a factor on a
    channel scales its grid too. An activation lies on a grid of 256 levels from the least to the greatest value
    observed, zero included, as after an export's calibration; old observations fade slowly.

    The inputs of convolutions, linear layers, sums, concatenations and averages of maps are rounded, and so are the
    outputs of the last convolutions of a head. An activation function behind a convolution is thereby part of it, as it
    is in int8. Images are integers already, and the computations of the heads on their last layers' outputs stay exact.
    Gradients pass the rounding unchanged, and stop where a value lies beyond its grid (Jacob et al. 2018, arXiv
    1712.05877, section 3).

    The weights of the model remain floats under their own names until :func:`round_weights` moves them.

    Args:
        model: The model to simulate; tells which activations there are.

    Attributes:
        lowest: ``(activations,)``, the lower end of the range of each.
        highest: ``(activations,)``, the upper end.
        observes: Whether ranges follow the activations in training mode.
    """

    lowest: Tensor
    highest: Tensor

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self._last, count, self._starts = _survey(model)
        self.register_buffer("lowest", torch.zeros(count))
        self.register_buffer("highest", torch.zeros(count))
        self.observes = True
        self._calibrates = False

    def attach(self, model: VisionModel) -> None:
        """Makes every pass of a model simulate int8; it must have the structure of the constructor's model."""
        passes = ExitStack()
        current: list[_Pass] = []

        def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            assert isinstance(module, VisionModel)
            first = partial(_round_weight, std=module.std)
            current[:] = [passes.enter_context(_Pass(self._round_activation, (first, _round_weight), self._last))]

        # A batch without ground truth for a head leaves it out, and the others must find their own ranges.
        def begin_head(start: tuple[int, int], *_: Any) -> None:
            for each in current:
                each.layers, each.activations = start

        def end(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
            passes.close()

        model.register_forward_pre_hook(begin)
        for name, head in model.heads.items():
            head.register_forward_pre_hook(partial(begin_head, self._starts[name]))
        # A pass that fails must end too.
        model.register_forward_hook(end, always_call=True)

    @torch.no_grad()
    def calibrate(self, model: VisionModel, batches: Iterable[Tensor]) -> None:
        """Measures the ranges of the activations in passes that round only the weights.

        Args:
            model: A model that this is attached to.
            batches: ``(B, 3, H, W)`` uint8 each.
        """
        training = model.training
        model.eval()
        self._calibrates = True
        for images in batches:
            model(images)
        self._calibrates = False
        model.train(training)

    def _round_activation(self, value: Tensor, site: int) -> Tensor:
        lowest, highest = self.lowest[site], self.highest[site]
        if self._calibrates or (self.training and self.observes):
            least, greatest = value.detach().aminmax()
            lowest.copy_(torch.minimum(least, lowest.lerp(least, FORGETTING)).clamp(max=0))
            highest.copy_(torch.maximum(greatest, highest.lerp(greatest, FORGETTING)).clamp(min=0))
        if self._calibrates:
            return value
        scale = ((highest - lowest) / (LEVELS - 1)).clamp(min=torch.finfo(value.dtype).tiny)
        zero_point = (-lowest / scale).round().int()
        return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, 0, LEVELS - 1)


@torch.no_grad()
def round_weights(model: VisionModel) -> None:
    """Moves the weights of a model onto the grid of int8, in place.

    The model then computes in floats what it computed in the simulation. The greatest weight of each channel is a point
    of the grid, so that an export finds the same grid and the weights lose nothing more.
    """
    layers = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    # The backbone comes first.
    for number, layer in enumerate(layers):
        layer.weight.copy_(_round_weight(layer.weight, model.std if number == 0 else None))


class _Pass(TorchFunctionMode):
    """One pass through a model in which the inputs of some operations are replaced.

    Args:
        activation: Returns the new activation.
        weights: Return the new weight of the first layer, and of every other.
        last: Numbers of the layers, from 0, whose outputs are replaced too.
    """

    def __init__(
        self,
        activation: Callable[[Tensor, int], Tensor],
        weights: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
        last: frozenset[int],
    ) -> None:
        super().__init__()
        self._activation = activation
        self._first_weight, self._weight = weights
        self._last = last
        self.layers = 0
        self.activations = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _LAYERS:
            return self._layer(func, *args, **kwargs)
        if func is torch.cat and _are_maps(args[0]):
            args = ([self._next(value) for value in args[0]], *args[1:])
        elif func in _SUMS and _are_maps(args):
            args = [self._next(value) for value in args]
        elif func in _AVERAGES and _are_maps(args[:1]):
            args = (self._next(args[0]), *args[1:])
        return func(*args, **kwargs)

    def _layer(self, func: Callable[..., Any], value: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.layers == 0:
            weight = self._first_weight(weight)
        else:
            value, weight = self._next(value), self._weight(weight)
        output = func(value, weight, *args, **kwargs)
        self.layers += 1
        return self._next(output) if self.layers - 1 in self._last else output

    def _next(self, value: Tensor) -> Tensor:
        self.activations += 1
        return self._activation(value, self.activations - 1)


class _Survey(_Pass):
    """A pass that replaces nothing and finds the last layers: convolutions whose outputs no later operation rounds."""

    def __init__(self) -> None:
        super().__init__(lambda value, _: value, (lambda weight: weight,) * 2, frozenset())
        # By the id of the output. Keeping the tensor reserves its id.
        self.open: dict[int, tuple[Tensor, int]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FUSED:
            self.open.pop(id(args[0]), None)
        output = super().__torch_function__(func, types, args, kwargs)
        if func is torch.conv2d:
            self.open[id(output)] = output, self.layers - 1
        return output

    def _next(self, value: Tensor) -> Tensor:
        self.open.pop(id(value), None)
        return super()._next(value)


def _survey(model: VisionModel) -> tuple[frozenset[int], int, dict[str, tuple[int, int]]]:
    """Returns the last layers, the number of activations to round, and the first layer and activation of each head.

    Layers and activations are numbers, from 0 in the order of a pass through the whole model.
    """
    copy = copy_to_meta(model).eval()
    survey = _Survey()
    begun: dict[str, tuple[int, int]] = {}
    for task, head in copy.heads.items():
        head.register_forward_pre_hook(lambda *_, task=task: begun.update({task: (survey.layers, survey.activations)}))
    with torch.no_grad(), survey:
        copy(torch.zeros((1, 3, *model.preprocess.size), dtype=torch.uint8, device="meta"))
    last = frozenset(number for _, number in survey.open.values())
    # The survey rounds no outputs of last layers, which are activations too.
    starts = {
        task: (layers, rounded + sum(number < layers for number in last)) for task, (layers, rounded) in begun.items()
    }
    return last, survey.activations + len(last), starts


def _are_maps(values: Sequence[Any]) -> bool:
    """Distinguishes feature maps, ``(B, C, H, W)``, from scalars, anchors and predictions."""
    return all(isinstance(value, Tensor) and value.ndim == 4 for value in values)


def _round_weight(weight: Tensor, std: Tensor | None = None) -> Tensor:
    """Rounds ``(out_channels, ...)``; an export folds the division by ``std`` into the first layer before that."""
    if std is not None:
        return _round_weight(weight / std) * std
    return round_to_int8(weight)
