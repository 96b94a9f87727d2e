"""Lets a quantized ONNX network read the bytes of images directly, without floats in between.

An image is already quantized, with scale 1 and its mean color as the zero point. Converting it to floats, subtracting
the mean and quantizing the difference costs a fifth of the network's time, and half a gray level of precision.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from mbv2kit.exporting.onnx_graph import Graph, attribute, set_attribute


def use_whole_means(model: ModelProto) -> tuple[str, int] | None:
    """Makes the first convolution read whole numbers, pixels minus one gray level; changes the model in place.

    The rest of the mean goes into the bias of the convolution, so that the outputs stay the same. If the means of the
    three channels differ, the image gets a border of the mean color, in whole gray levels, and the convolution no
    longer pads.

    Args:
        model: The network; its first convolution has a bias.

    Returns:
        The tensor that the first convolution reads, and the gray level that is subtracted; None if the network does not
        begin by subtracting the mean before a convolution.
    """
    graph = Graph(model.graph)
    image = model.graph.input[0]
    found = _begin(graph, image.name)
    if found is None:
        return None
    transpose, subtract, conv = found
    mean = graph.constant(subtract.input[1]).reshape(-1).astype(np.float64)
    color = np.rint(mean).astype(np.uint8)
    gray = int(color[0])
    if len(set(color)) > 1:
        gray = 0
        _add_border(graph, image, transpose, color, _margins(conv, image))
        set_attribute(conv, "pads", [0, 0, 0, 0])
    weight, bias = graph.constant(conv.input[1]).astype(np.float64), graph.constant(conv.input[2])
    graph.set_constant(subtract.input[1], np.full((1, 3, 1, 1), gray, dtype=np.float32))
    graph.set_constant(conv.input[2], (bias + weight.sum(axis=(2, 3)) @ (gray - mean)).astype(np.float32))
    return conv.input[0], gray


def read_bytes(model: ModelProto, tensor: str) -> None:
    """Feeds the image's bytes to a quantized network whose input ``tensor`` has scale 1, in place."""
    graph = Graph(model.graph)
    (quantize,) = graph.users(tensor)
    subtract = graph.producer(tensor)
    assert subtract is not None
    cast = graph.producer(subtract.input[0])
    assert cast is not None
    for user in graph.users(quantize.output[0]):
        user.input[0] = cast.input[0]
    graph.remove([cast, subtract, quantize])


def _begin(graph: Graph, image: str) -> tuple[NodeProto, NodeProto, NodeProto] | None:
    """Finds the transposition, the subtraction and the convolution that a network begins with."""
    nodes, tensor = [], image
    for kind in ("Transpose", "Cast", "Sub", "Conv"):
        users = graph.users(tensor)
        if len(users) != 1 or users[0].op_type != kind:
            return None
        nodes.append(users[0])
        tensor = users[0].output[0]
    transpose, _, subtract, conv = nodes
    return (transpose, subtract, conv) if graph.is_constant(subtract.input[1]) else None


def _margins(conv: NodeProto, image: ValueInfoProto) -> list[tuple[int, int]]:
    """Returns how many pixels a convolution reads above and below its input, and left and right of it."""
    size = [side.dim_value for side in image.type.tensor_type.shape.dim[1:3]]
    pads, strides, kernel = (attribute(conv, name) for name in ("pads", "strides", "kernel_shape"))
    margins = []
    for side, before, after, stride, reach in zip(size, pads[:2], pads[2:], strides, kernel, strict=True):
        steps = (side + before + after - reach) // stride
        margins.append((before, max(0, steps * stride + reach - before - side)))
    return margins


def _add_border(
    graph: Graph,
    image: ValueInfoProto,
    transpose: NodeProto,
    color: NDArray[np.uint8],
    margins: list[tuple[int, int]],
) -> None:
    """Adds a border of a color around the image, before the node that transposes it."""
    height, width = (side.dim_value for side in image.type.tensor_type.shape.dim[1:3])
    (above, below), (left, right) = margins
    ones = graph.set_constant("border.ones", np.ones(3, dtype=np.int64))
    nodes = [
        helper.make_node("Shape", [image.name], ["border.batch"], name="border.batch", start=0, end=1),
        helper.make_node("Concat", ["border.batch", ones], ["border.repeats"], name="border.repeats", axis=0),
    ]

    def add(inside: str, bars: tuple[int, int], shape: Callable[[int], tuple[int, ...]], axis: int) -> str:
        parts = [inside]
        for name, thickness, place in ((f"border.{axis}.before", bars[0], 0), (f"border.{axis}.after", bars[1], 2)):
            if thickness:
                bar = graph.set_constant(f"{name}.bar", np.broadcast_to(color, shape(thickness)))
                nodes.append(helper.make_node("Expand", [bar, "border.repeats"], [name], name=name))
                parts.insert(place, name)
        nodes.append(helper.make_node("Concat", parts, [f"border.{axis}"], name=f"border.{axis}", axis=axis))
        return f"border.{axis}"

    wide = add(image.name, (left, right), lambda thickness: (1, height, thickness, 3), axis=2)
    bordered = add(wide, (above, below), lambda thickness: (1, thickness, left + width + right, 3), axis=1)
    transpose.input[0] = bordered
    graph.insert_before(transpose, nodes)
