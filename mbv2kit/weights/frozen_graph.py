"""Reads the layers of TensorFlow's frozen graphs: classifiers, DeepLab, and the Object Detection API's SSD."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError, one_line
from mbv2kit.weights.graphdef import GraphFile, Node
from mbv2kit.weights.layer_recorder import LayerRecorder, Passing
from mbv2kit.weights.network_graph import Layer, NetworkGraph, Norm, Padding, name_padding
from mbv2kit.weights.object_detection import find_predictions
from mbv2kit.weights.published import Published
from mbv2kit.weights.tensorflow import publish

_LAYERS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")
_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
# Arithmetic with constants: a bias, or a batch norm in parts.
_SCALES, _SHIFTS = ("Mul", "RealDiv"), ("BiasAdd", "Add", "AddV2", "Sub")
# Operations without weights between two layers.
_PASSING: dict[str, Passing] = {
    "Add": "add",
    "AddV2": "add",
    "ConcatV2": "join",
    "Relu": "relu",
    "Relu6": "relu6",
    "BatchToSpaceND": "merge",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "ArgMax": "pass",
    "AvgPool": "pass",
    "CheckNumerics": "pass",
    "ExpandDims": "pass",
    "FakeQuantWithMinMaxArgs": "pass",
    "FakeQuantWithMinMaxVars": "pass",
    "Identity": "pass",
    "Mean": "pass",
    "Pad": "pass",
    "Reshape": "pass",
    "ResizeBilinear": "pass",
    "SpaceToBatchND": "pass",
    "Squeeze": "pass",
    "Transpose": "pass",
    "Unpack": "pass",
}
_POOLS = ("AvgPool", "Mean")
_UINT8 = 4


def read(path: Path, source: str) -> Published:
    """Reads a frozen graph, or the ``saved_model.pb`` of one.

    Args:
        path: The file.
        source: Name of the source in ``model.json``.

    Raises:
        UserError: The file is damaged or holds an unknown network.
    """
    return publish(read_graph(path), path, source, format="TensorFlow, frozen graph")


def read_graph(path: Path, variables: Mapping[str, NDArray[Any]] | None = None) -> NetworkGraph:
    """Reads the layers of a graph.

    Args:
        path: The file.
        variables: Values of the variables by name, for a graph that is not frozen.

    Raises:
        UserError: The file is damaged, or an operation between two layers is unknown.
    """
    try:
        return _Reader(path, GraphFile(path, variables)).read()
    # A damaged graph may lack any attribute or input.
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its graph is damaged ({one_line(error)}); fetch it again.") from None


@dataclass(slots=True)
class _Reader:
    """Walks over the nodes; facts about a tensor are stored by the name of the node that computes it."""

    path: Path
    file: GraphFile
    found: LayerRecorder = field(default_factory=LayerRecorder)
    # Padding added to a tensor, rate by which it is split, whether it is a mean over the image.
    padded: dict[str, Padding] = field(default_factory=dict)
    split: dict[str, int] = field(default_factory=dict)
    pooled: set[str] = field(default_factory=set)
    # Factor and summand that make a tensor of the pixels.
    pixels: dict[str, tuple[float, float]] = field(default_factory=dict)
    # The unknown operation that a tensor depends on.
    unknown: dict[str, Node] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    takes_bytes: bool = False
    old_resizing: bool = False
    align_corners: bool | None = None

    def read(self) -> NetworkGraph:
        for node in self.file.nodes:
            if node.name not in self.file.constants:
                self._take(node)
        if not self.found.layers:
            raise UserError(f"{self.path} is a graph of TensorFlow without layers that hold weights.")
        first = next((node for node in self.file.nodes if node.op in _LAYERS), None)
        assert first is not None
        factor, summand = self.pixels.get(first.inputs[0], (1.0, 0.0))
        scaled = (factor, summand) != (1.0, 0.0) or self.takes_bytes
        return NetworkGraph(
            layers=self.found.layers,
            shortcuts=self.found.shortcuts,
            input_size=self.size,
            # The file has some 7 digits: 1 / 0.00784313772 is 127.5.
            input_scale=(round(-summand / factor, 3), round(1 / factor, 3)) if scaled else None,
            align_corners=self.align_corners,
            old_resizing=self.old_resizing,
            predictions=find_predictions(self.file, self.found),
        )

    def _take(self, node: Node) -> None:
        inputs = [name for name in node.inputs if name not in self.file.constants]
        constants = [self.file.constants[name] for name in node.inputs if name in self.file.constants]
        traced = [name for name in inputs if name in self.found.traces]
        blamed = next((self.unknown[name] for name in inputs if name in self.unknown), None)
        if blamed is not None and not traced:
            if node.op in _LAYERS:
                raise UserError(
                    f"{self.path}: its node '{blamed.name}' is of the kind {blamed.op}, which no known network has "
                    "between its layers."
                )
            self.unknown[node.name] = blamed
        elif node.op in _LAYERS:
            self._add(node, constants)
        elif traced:
            self._follow(node, inputs, constants)
        else:
            self._prepare(node, inputs, constants)

    def _add(self, node: Node, constants: Sequence[NDArray[Any]]) -> None:
        if len(constants) != 1 or constants[0].dtype.kind != "f":
            raise UserError(f"{self.path}: its node '{node.name}' has no constant weights; freeze the graph.")
        weight = _weight(node, constants[0], self.path)
        source = node.inputs[0]
        stride, dilation = self._steps(node, "strides"), self._steps(node, "dilations")
        rate = self.split.get(source)
        same = node.op != "MatMul" and (node.attributes["padding"].s == b"SAME" or rate is not None)
        kinds = {"Conv2D": "convolution", "DepthwiseConv2dNative": "depthwise", "MatMul": "dense"}
        layer = Layer(
            name=node.name,
            kind=kinds[node.op],  # type: ignore[arg-type]
            weight=weight,
            bias=np.zeros(len(weight), dtype=np.float32),
            source=self.found.source(source),
            pooled=source in self.pooled or node.op == "MatMul",
            stride=stride,
            dilation=rate or dilation,
            padding="same" if same else self.padded.get(source, "valid"),
        )
        self.found.add(layer, node.name)

    def _steps(self, node: Node, attribute: str) -> int:
        if attribute not in node.attributes:
            return 1
        steps = list(node.attributes[attribute].list.i)
        if len(steps) != 4 or steps[1] != steps[2] or not 0 < steps[1] < 100:
            raise UserError(f"{self.path}: its node '{node.name}' has the {attribute} {steps}; expected 1, n, n, 1.")
        return int(steps[1])

    def _follow(self, node: Node, inputs: Sequence[str], constants: Sequence[NDArray[Any]]) -> None:
        trace = self.found.traces.get(inputs[0])
        layer = None if trace is None or not trace.direct else self.found.layers[trace.layer]
        if node.op in _NORMS or (node.op in _SCALES + _SHIFTS and len(constants) == 1):
            if trace is not None and _is_neutral(node, constants):
                self.found.traces[node.name] = trace
            elif trace is not None and layer is not None and layer.activation == "none":
                self.found.change(trace.layer, **self._changed(node, layer, constants))
                self.found.traces[node.name] = trace
            else:
                self.unknown[node.name] = node
            return
        if node.op not in _PASSING:
            self.unknown[node.name] = node
            return
        self.found.carry(_PASSING[node.op], inputs, node.name)
        if node.op in _POOLS or (node.op == "Identity" and inputs[0] in self.pooled):
            self.pooled.add(node.name)
        if node.op == "Pad" and constants:
            self.padded[node.name] = name_padding(constants[0], f"{self.path}: its node '{node.name}'")
        elif node.op == "SpaceToBatchND" and constants:
            self.split[node.name] = int(constants[0].ravel()[0])
        elif node.op == "ResizeBilinear":
            self.align_corners = node.attributes["align_corners"].b

    def _changed(self, node: Node, layer: Layer, constants: Sequence[NDArray[Any]]) -> dict[str, Any]:
        """Returns the fields of a layer that an operation behind it changes."""
        if node.op in _NORMS:
            if len(constants) != 4 or any(value.shape != layer.bias.shape for value in constants):
                raise UserError(f"{self.path}: its node '{node.name}' has no constant statistics; freeze the graph.")
            weight, bias, mean, variance = constants
            return {"norm": Norm(weight=weight, bias=bias, mean=mean, variance=variance, eps=_epsilon(node))}
        value = np.broadcast_to(constants[0].astype(np.float32).ravel(), layer.bias.shape)
        if node.op in _SHIFTS:
            sign = -1 if node.op == "Sub" else 1
            return {"bias": layer.bias + sign * value} if layer.norm is None else {"norm": _shifted(layer.norm, value)}
        factor = 1 / value if node.op == "RealDiv" else value
        rows = factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
        return {"weight": layer.weight * rows, "bias": layer.bias * factor}

    def _prepare(self, node: Node, inputs: Sequence[str], constants: Sequence[NDArray[Any]]) -> None:
        """Follows the pixels on their way to the first layer."""
        if node.op == "Placeholder":
            self.pixels[node.name] = (1.0, 0.0)
            self.takes_bytes = node.attributes["dtype"].type == _UINT8
            sides = [dimension.size for dimension in node.attributes["shape"].shape.dim]
            if len(sides) == 4 and sides[3] == 3 and min(sides[1:3]) > 0:
                self.size = (sides[1], sides[2])
            return
        known = [name.partition(":")[0] for name in inputs if name.partition(":")[0] in self.pixels]
        if not known:
            return
        factor, summand = self.pixels[known[0]]
        if len(constants) == 1 and constants[0].size == 1 and node.op in _SCALES + _SHIFTS:
            value = float(constants[0].ravel()[0])
            if node.op in _SHIFTS:
                summand += -value if node.op == "Sub" else value
            elif value != 0:
                value = 1 / value if node.op == "RealDiv" else value
                factor, summand = factor * value, summand * value
        elif node.op == "ResizeBilinear":
            corners, centers = (node.attributes.get(key) for key in ("align_corners", "half_pixel_centers"))
            self.old_resizing = not (corners is not None and corners.b) and not (centers is not None and centers.b)
            if constants:
                self.size = (int(constants[0][0]), int(constants[0][1]))
        self.pixels[node.name] = (factor, summand)


def _weight(node: Node, value: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """Returns a layer's weights in torch's layout."""
    if not np.isfinite(value).all():
        raise UserError(f"{path}: the weights of '{node.name}' hold numbers that are not finite (NaN or infinity).")
    if node.op == "MatMul" and value.ndim == 2:
        return np.ascontiguousarray(value if node.attributes["transpose_b"].b else value.T, dtype=np.float32)
    # The file has (height, width, in, out), and (height, width, channels, 1) for a depthwise kernel.
    if value.ndim != 4 or value.size == 0 or (node.op == "DepthwiseConv2dNative" and value.shape[3] != 1):
        raise UserError(f"{path}: the weights of '{node.name}' have the shape {list(value.shape)}, as in no network.")
    order = (2, 3, 0, 1) if node.op == "DepthwiseConv2dNative" else (3, 2, 0, 1)
    return np.ascontiguousarray(value.transpose(order), dtype=np.float32)


def _epsilon(node: Node) -> float:
    return round(float(node.attributes["epsilon"].f), 9)


def _is_neutral(node: Node, constants: Sequence[NDArray[Any]]) -> bool:
    """Tells whether arithmetic changes nothing, as the API's scaling of logits by 1."""
    neutral = 1 if node.op in _SCALES else 0
    return len(constants) == 1 and constants[0].size == 1 and float(constants[0].ravel()[0]) == neutral


def _shifted(norm: Norm, value: NDArray[np.float32]) -> Norm:
    return Norm(weight=norm.weight, bias=norm.bias + value, mean=norm.mean, variance=norm.variance, eps=norm.eps)
