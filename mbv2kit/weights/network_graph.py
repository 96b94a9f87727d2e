"""A published network as a list of layers with their weights, whichever format its file has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.heads.multibox import Scores

Kind = Literal["convolution", "depthwise", "dense"]
Activation = Literal["none", "relu", "relu6"]
Padding = Literal["same", "valid", "symmetric"]
Floats = NDArray[np.float32]

# What the first layer reads instead of another layer.
IMAGE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A batch normalization behind a layer, which the file has not folded into the layer's weights.

    Attributes:
        weight: ``(out,)``.
        bias: ``(out,)``.
        mean: ``(out,)``.
        variance: ``(out,)``.
        eps: What is added to the variance.
    """

    weight: Floats
    bias: Floats
    mean: Floats
    variance: Floats
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer with weights, in torch's layout.

    Attributes:
        name: Name of its output in the file, for messages.
        kind: Kind of layer; a depthwise convolution has one filter per channel.
        weight: ``(out, in, k, k)``, ``(channels, 1, k, k)`` for a depthwise one, ``(out, in)`` for a dense one;
            float32, with the scales of a quantized file multiplied in.
        bias: ``(out,)`` float32.
        norm: The batch normalization behind it; None if there is none, or if it is folded into the weights.
        source: Position of the layer whose output it reads, possibly scaled, added to another or pooled; -1 if it
            reads the image.
        pooled: Whether it reads the mean over all pixels.
        stride: Stride of the convolution.
        dilation: Dilation of the convolution.
        padding: ``same`` is TensorFlow's SAME, ``symmetric`` the same on all sides by a PAD before it, ``valid`` none.
        activation: Activation after the layer.
    """

    name: str
    kind: Kind
    weight: Floats
    bias: Floats
    norm: Norm | None = None
    source: int = IMAGE
    pooled: bool = False
    stride: int = 1
    dilation: int = 1
    padding: Padding = "valid"
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """How a detector's outputs arise from its last layers, and what the file says about reading them.

    Attributes:
        boxes: Positions of the layers that predict box codes, finest map first.
        scores: Positions of the layers that predict class logits, in the same order.
        columns: Number of logits of an anchor, a background included.
        anchors: ``(A, 4)`` ``xyxy`` on the unit square; None if the file does not hold them as numbers.
        cells: (width, height) of a cell's anchors for each map, as fractions of the image; None if the file does not
            say.
        code_weights: By how much the file multiplies the y, x, height and width of a box's code.
        score_function: How logits become scores; None if the file ends before.
        nms: Options of the suppression by their names in ``NmsOptions``; empty if the file has none.
        fuzzy_anchors: By how much ``anchors`` may be off, since the file rounds them.
    """

    boxes: tuple[int, ...]
    scores: tuple[int, ...]
    columns: int
    anchors: Floats | None = None
    cells: list[list[tuple[float, float]]] | None = None
    code_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score_function: Scores | None = None
    nms: Mapping[str, Any] = field(default_factory=dict)
    fuzzy_anchors: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkGraph:
    """The network in a file.

    Attributes:
        layers: In the order in which they run.
        shortcuts: Number of additions of two layers' outputs.
        input_size: Height and width of the image; None if the file takes any.
        input_scale: Mean and standard deviation, both in 0..255, by which pixels become the network's numbers; None if
            the file leaves that to its user.
        quantized: Whether the file stores weights as small integers.
        align_corners: Whether resizing of maps aligns the corners; None if none is resized.
        old_resizing: Whether the file itself resizes images, by TensorFlow's rule that aligns top left corners only.
        predictions: How a detector's outputs arise; None for other networks.
    """

    layers: list[Layer]
    shortcuts: int
    input_size: tuple[int, int] | None
    input_scale: tuple[float, float] | None
    quantized: bool = False
    align_corners: bool | None = None
    old_resizing: bool = False
    predictions: Predictions | None = None


def name_padding(amounts: NDArray[Any], subject: str) -> Padding:
    """Names what a PAD before a convolution does.

    Args:
        amounts: ``(4, 2)`` whole numbers, how many zeros are added before and after the images, rows, columns and
            channels.
        subject: What pads, for the message.

    Raises:
        UserError: No known network pads like that.
    """
    _, rows, columns, _ = amounts.tolist()
    if rows == columns and rows[0] == rows[1]:
        return "symmetric"
    if rows == columns and rows == [0, 1]:
        return "same"
    raise UserError(f"{subject} pads by {rows} and {columns} pixels, which is neither symmetric nor TensorFlow's SAME.")
