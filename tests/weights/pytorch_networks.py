"""Detectors of three PyTorch projects, layer by layer and by their own names, with random weights.

A network draws a tensor when its forward pass asks for it the first time, so that the pass defines the layout of the
file. What the projects say about boxes is computed with plain loops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Act = Literal["relu6", "relu", "none"]
Names = tuple[str, str]

# Channels, blocks and stride of the first block of each stage of MobileNetV2; all but the first expand six times.
V2 = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class Weights:
    """Tensors by name, and the layers that read them."""

    def __init__(self, eps: float) -> None:
        self.eps = eps
        self.tensors: dict[str, Tensor] = {}

    def _draw(self, name: str, shape: Sequence[int], low: float, high: float) -> Tensor:
        if name not in self.tensors:
            self.tensors[name] = torch.empty(*shape).uniform_(low, high)
        return self.tensors[name]

    def conv(self, x: Tensor, name: str, out: int, side: int = 1, stride: int = 1, groups: int = 1) -> Tensor:
        """Convolves without a bias."""
        return self._conv(x, name, out, side, stride, groups, 4.5)

    def predict(self, x: Tensor, name: str, out: int, side: int = 1) -> Tensor:
        """Convolves with a bias; the values are of order one."""
        return self.bias(self._conv(x, name, out, side, 1, 1, 0.5), name)

    def _conv(self, x: Tensor, name: str, out: int, side: int, stride: int, groups: int, power: float) -> Tensor:
        reach = sqrt(power / (side * side * x.shape[1] / groups))
        weight = self._draw(f"{name}.weight", (out, x.shape[1] // groups, side, side), -reach, reach)
        return F.conv2d(x, weight, stride=stride, padding=side // 2, groups=groups)

    def bias(self, x: Tensor, name: str) -> Tensor:
        """Adds the bias of a convolution."""
        return x + self._draw(f"{name}.bias", (x.shape[1],), -0.5, 0.5)[:, None, None]

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Normalizes with running statistics."""
        count = x.shape[1]
        mean = self._draw(f"{name}.running_mean", (count,), -0.3, 0.3)
        variance = self._draw(f"{name}.running_var", (count,), 0.5, 1.5)
        weight = self._draw(f"{name}.weight", (count,), 0.5, 1.5)
        bias = self._draw(f"{name}.bias", (count,), -0.3, 0.3)
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)
        unit = (x - mean[:, None, None]) / torch.sqrt(variance + self.eps)[:, None, None]
        return unit * weight[:, None, None] + bias[:, None, None]

    def block(
        self, x: Tensor, names: Names, out: int, side: int = 1, stride: int = 1, groups: int = 1, act: Act = "relu6"
    ) -> Tensor:
        """Convolution, norm and activation, by the names of the first two."""
        x = self.norm(self.conv(x, names[0], out, side, stride, groups), names[1])
        return x if act == "none" else x.clamp(0, 6 if act == "relu6" else None)

    def bottleneck(self, x: Tensor, names: Sequence[Names], inner: int, out: int, stride: int) -> tuple[Tensor, Tensor]:
        """Returns the expansion and the output; without names for it there is no expansion."""
        *expand, depthwise, project = names
        wide = self.block(x, expand[0], inner) if expand else x
        y = self.block(self.block(wide, depthwise, inner, 3, stride, inner), project, out, act="none")
        return wide, x + y if stride == 1 and out == x.shape[1] else y


def mobilenet_v2(
    weights: Weights, x: Tensor, names: Callable[[int, int], Sequence[Names]], width: float = 1.0
) -> list[Tensor]:
    """Returns the expansion of block 14, the output of block 13 and the last map; ``names`` of a block of a stage."""
    x = weights.block(x, names(0, 0)[0], int(32 * width), 3, 2)
    found, number = {}, 0
    for stage, (channels, repeats, first_stride) in enumerate(V2, start=1):
        for repeat in range(repeats):
            number += 1
            inner = x.shape[1] * (6 if stage > 1 else 1)
            stride = first_stride if repeat == 0 else 1
            wide, x = weights.bottleneck(x, names(stage, repeat), inner, int(channels * width), stride)
            found[number] = (wide, x)
    return [found[14][0], found[13][1], weights.block(x, names(8, 0)[0], 1280)]


def number_of(stage: int, repeat: int) -> int:
    """Returns the place of a block among all blocks, the first convolution and the last included."""
    return 0 if stage == 0 else 1 + sum(repeats for _, repeats, _ in V2[: stage - 1]) + repeat


def priors(
    grids: Sequence[int], steps: Sequence[int], squares: Sequence[int], side: int, *, clip: bool
) -> NDArray[np.float64]:
    """Returns center x, center y, width and height of each prior as fractions of the side."""
    rows = []
    for level, (grid, step) in enumerate(zip(grids, steps, strict=True)):
        small, large = squares[level], sqrt(squares[level] * squares[level + 1])
        sizes = [(small, small), (large, large)]
        for ratio in (2, 3):
            long, thin = small * sqrt(ratio), small / sqrt(ratio)
            sizes += [(long, thin), (thin, long)]
        for y in range(grid):
            for x in range(grid):
                rows += [[(x + 0.5) * step, (y + 0.5) * step, width, height] for width, height in sizes]
    found = np.array(rows) / side
    return found.clip(0, 1) if clip else found


def decoded(codes: Tensor, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns corners on the unit square."""
    rows = []
    for (x, y, w, h), (center_x, center_y, width, height) in zip(codes.tolist(), boxes.tolist(), strict=True):
        x, y = center_x + 0.1 * x * width, center_y + 0.1 * y * height
        w, h = width * exp(0.2 * w), height * exp(0.2 * h)
        rows.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return np.array(rows)


@dataclass(frozen=True, kw_only=True)
class Project:
    """How a project reads an image and predicts boxes.

    Attributes:
        forward: Returns codes and logits of all priors, ``(A, 4)`` and ``(A, classes + 1)``, of a normalized image.
        eps: Epsilon of its norms.
        side: Height and width of its input.
        mean: What is subtracted from the pixels.
        std: By what they are divided.
        priors: Its priors.
        background: Place of the background among the logits.
    """

    forward: Callable[[Weights, Tensor, int], tuple[Tensor, Tensor]]
    eps: float
    side: int
    mean: Sequence[float]
    std: Sequence[float]
    priors: NDArray[np.float64]
    background: int = 0

    def predict(
        self, weights: Weights, pixels: Tensor, classes: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns boxes ``(A, 4)`` on the unit square and scores ``(A, classes)`` of an image ``(1, 3, H, W)``."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        codes, logits = self.forward(weights, (pixels - mean) / std, classes)
        columns = [column for column in range(classes + 1) if column != self.background % (classes + 1)]
        return decoded(codes, self.priors), logits.softmax(dim=1)[:, columns].double().numpy()


def _joined(levels: Sequence[Tensor], values: int) -> Tensor:
    return torch.cat([level[0].permute(1, 2, 0).reshape(-1, values) for level in levels])


def _mb2_names(stage: int, repeat: int) -> list[Names]:
    number = number_of(stage, repeat)
    if stage in (0, 8):
        return [(f"base_net.{number}.0", f"base_net.{number}.1")]
    parts = 2 if stage == 1 else 3
    return [(f"base_net.{number}.conv.{3 * part}", f"base_net.{number}.conv.{3 * part + 1}") for part in range(parts)]


def _extra_bottlenecks(weights: Weights, x: Tensor, names: Callable[[int], Sequence[Names]]) -> list[Tensor]:
    maps = [x]
    for place, (inner, out) in enumerate(((256, 512), (128, 256), (128, 256), (64, 64))):
        maps.append(weights.bottleneck(maps[-1], names(place), inner, out, 2)[1])
    return maps[1:]


def _lite_predictions(weights: Weights, maps: Sequence[Tensor], name: str, middle: str, values: int) -> Tensor:
    """Separable predictions, but for the last map; the depthwise convolutions have a bias before their norm."""
    levels = []
    for place, x in enumerate(maps[:-1]):
        layer, count = f"{name}.{place}{middle}", x.shape[1]
        x = weights.norm(weights.bias(weights.conv(x, f"{layer}.0", count, 3, 1, count), f"{layer}.0"), f"{layer}.1")
        levels.append(weights.predict(x.clamp(0, 6), f"{layer}.3", 6 * values))
    last = f"{name}.{len(maps) - 1}"
    levels.append(weights.predict(maps[-1], last, 6 * values))
    return _joined(levels, values)


def mb2_ssd_lite(weights: Weights, image: Tensor, classes: int, width: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns codes and logits of qfgaohao/pytorch-ssd's mb2-ssd-lite."""

    def names(extra: int) -> list[Names]:
        return [(f"extras.{extra}.conv.{3 * part}", f"extras.{extra}.conv.{3 * part + 1}") for part in range(3)]

    wide, _, last = mobilenet_v2(weights, image, _mb2_names, width)
    maps = [wide, last, *_extra_bottlenecks(weights, last, names)]
    codes = _lite_predictions(weights, maps, "regression_headers", "", 4)
    return codes, _lite_predictions(weights, maps, "classification_headers", "", classes + 1)


def mb1_ssd(weights: Weights, image: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Returns codes and logits of qfgaohao/pytorch-ssd's mb1-ssd."""
    x = weights.block(image, ("base_net.0.0", "base_net.0.1"), 32, 3, 2, act="relu")
    maps = []
    for number, (out, stride) in enumerate(V1, start=1):
        layer, count = f"base_net.{number}", x.shape[1]
        x = weights.block(x, (f"{layer}.0", f"{layer}.1"), count, 3, stride, count, act="relu")
        x = weights.block(x, (f"{layer}.3", f"{layer}.4"), out, act="relu")
        if number in (11, 13):
            maps.append(x)
    for place, (inner, out) in enumerate(((256, 512), (128, 256), (128, 256), (128, 256))):
        x = weights.bias(weights.conv(x, f"extras.{place}.0", inner), f"extras.{place}.0").clamp(min=0)
        x = weights.bias(weights.conv(x, f"extras.{place}.2", out, 3, 2), f"extras.{place}.2").clamp(min=0)
        maps.append(x)
    found = {}
    for name, values in (("regression_headers", 4), ("classification_headers", classes + 1)):
        layers = [f"{name}.{place}" for place in range(6)]
        found[name] = _joined(
            [weights.predict(x, layer, 6 * values, 3) for layer, x in zip(layers, maps, strict=True)], values
        )
    return found["regression_headers"], found["classification_headers"]


def lufficc(weights: Weights, image: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Returns codes and logits of lufficc/SSD on MobileNetV2."""

    def bottleneck(layer: str, parts: int) -> list[Names]:
        first = [(f"{layer}.conv.{part}.0", f"{layer}.conv.{part}.1") for part in range(parts - 1)]
        return [*first, (f"{layer}.conv.{parts - 1}", f"{layer}.conv.{parts}")]

    def names(stage: int, repeat: int) -> list[Names]:
        layer = f"backbone.features.{number_of(stage, repeat)}"
        return [(f"{layer}.0", f"{layer}.1")] if stage in (0, 8) else bottleneck(layer, 2 if stage == 1 else 3)

    _, first, last = mobilenet_v2(weights, image, names)
    extras = _extra_bottlenecks(weights, last, lambda extra: bottleneck(f"backbone.extras.{extra}", 3))
    maps, predictor = [first, last, *extras], "box_head.predictor"
    codes = _lite_predictions(weights, maps, f"{predictor}.reg_headers", ".conv", 4)
    return codes, _lite_predictions(weights, maps, f"{predictor}.cls_headers", ".conv", classes + 1)


def mmdetection(weights: Weights, image: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Returns codes and logits of mmdetection's ssdlite_mobilenetv2."""

    def module(name: str) -> Names:
        return f"{name}.conv", f"{name}.bn"

    def names(stage: int, repeat: int) -> list[Names]:
        if stage in (0, 8):
            return [module("backbone.conv1" if stage == 0 else "backbone.conv2")]
        parts = ("depthwise", "linear") if stage == 1 else ("expand", "depthwise", "linear")
        return [module(f"backbone.layer{stage}.{repeat}.{part}_conv") for part in parts]

    _, first, x = mobilenet_v2(weights, image, names)
    maps = [first, x]
    for place, out in enumerate((512, 256, 256, 128)):
        layer = f"neck.extra_layers.{place}"
        x = weights.block(x, module(f"{layer}.0"), out // 2)
        x = weights.block(x, module(f"{layer}.1.depthwise_conv"), out // 2, 3, 2, out // 2)
        x = weights.block(x, module(f"{layer}.1.pointwise_conv"), out)
        maps.append(x)
    found = {}
    for name, values in (("reg", 4), ("cls", classes + 1)):
        levels = []
        for place, x in enumerate(maps):
            layer, count = f"bbox_head.{name}_convs.{place}", x.shape[1]
            x = weights.block(x, module(f"{layer}.0"), count, 3, 1, count)
            levels.append(weights.predict(x, f"{layer}.1", 6 * values))
        found[name] = _joined(levels, values)
    return found["reg"], found["cls"]


_SQUARES = (60, 105, 150, 195, 240, 285, 330)
_AT_300 = priors((19, 10, 5, 3, 2, 1), (16, 32, 64, 100, 150, 300), _SQUARES, 300, clip=True)
_GRIDS, _STEPS = (20, 10, 5, 3, 2, 1), (16, 32, 64, 107, 160, 320)

PROJECTS = {
    "mb2-ssd-lite": Project(
        forward=mb2_ssd_lite, eps=1e-5, side=300, mean=[127.0] * 3, std=[128.0] * 3, priors=_AT_300
    ),
    "mb1-ssd": Project(forward=mb1_ssd, eps=1e-5, side=300, mean=[127.0] * 3, std=[128.0] * 3, priors=_AT_300),
    "lufficc": Project(
        forward=lufficc,
        eps=1e-5,
        side=320,
        mean=[123.0, 117.0, 104.0],
        std=[1.0] * 3,
        priors=priors(_GRIDS, _STEPS, _SQUARES, 320, clip=True),
    ),
    "mmdetection": Project(
        forward=mmdetection,
        eps=1e-3,
        side=320,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        priors=priors(_GRIDS, _STEPS, (48, 100, 150, 202, 253, 304, 320), 320, clip=False),
        background=-1,
    ),
}
