"""Counts the parameters and multiply-adds of a network layer by layer, on the operations that it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from mbv2kit.analysis.contractions import fold_norms
from mbv2kit.analysis.graph import Graph, Operation, Shape, trace

# Matrix products, with the index of the first of their two matrices among the arguments.
MATRIX_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}


@dataclass(frozen=True, slots=True)
class LayerComplexity:
    """Cost of one operation.

    Attributes:
        module: Path of the module that runs it.
        kind: Description such as ``3 x 3 depthwise conv``, ``linear`` or ``batch norm``; ``unused`` for parameters that
            no operation reads.
        output_shape: Shape of the result, including the batch; empty if unused.
        parameters: Parameters; those of a module that runs several times count only the first time.
        norm_parameters: Number of these that are scales and shifts of a batch normalization.
        madds: Multiply-adds.
    """

    module: str
    kind: str
    output_shape: Shape
    parameters: int
    norm_parameters: int
    madds: int


@dataclass(frozen=True, slots=True)
class Complexity:
    """Cost of a network for one image; as text, a table of its layers.

    Attributes:
        layers: All operations with parameters or multiply-adds, in order of execution.
    """

    layers: tuple[LayerComplexity, ...]

    @property
    def parameters(self) -> int:
        """All weights, biases, and scales and shifts of batch normalizations."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def norm_parameters(self) -> int:
        """Scales and shifts of batch normalizations, which some of the paper's numbers exclude."""
        return sum(layer.norm_parameters for layer in self.layers)

    @property
    def madds(self) -> int:
        """All multiply-adds."""
        return sum(layer.madds for layer in self.layers)

    def __str__(self) -> str:
        rows = [("module", "layer", "output", "parameters", "multiply-adds")]
        for layer in self.layers:
            shape = " x ".join(map(str, layer.output_shape[1:]))
            rows.append((layer.module, layer.kind, shape, f"{layer.parameters:,}", f"{layer.madds:,}"))
        rows.append(("", "", "sum", f"{self.parameters:,}", f"{self.madds:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([*lines, f"{self.norm_parameters:,} of the parameters belong to batch normalizations"])


def complexity(
    model: nn.Module, size: tuple[int, int], *, folded: bool = False, space_to_batch: bool = False
) -> Complexity:
    """Counts the parameters and multiply-adds of a model in evaluation mode.

    A convolution has ``out_h * out_w * out_c * in_c / groups * k * k`` multiply-adds, a matrix product one for each
    multiplication. Nothing else counts: no bias, normalization, activation, pooling or addition.

    Args:
        model: Model on any device; see :func:`~mbv2kit.analysis.graph.trace`.
        size: Height and width of the input.
        folded: Whether batch normalizations are folded into the preceding convolutions, each of which then has its
            weights and one bias per channel.
        space_to_batch: Whether dilated convolutions run on maps padded to a multiple of the dilation, as in TensorFlow
            and in the paper's Table 7.

    Raises:
        UserError: The model cannot run on an input of this size.
    """
    graph = trace(model, size)
    return graph_complexity(fold_norms(graph) if folded else graph, space_to_batch=space_to_batch)


def graph_complexity(graph: Graph, *, space_to_batch: bool = False) -> Complexity:
    """Counts the parameters and multiply-adds of a traced graph; see :func:`complexity`."""
    layers: list[LayerComplexity] = []
    counted: set[object] = set()
    for operation in graph.operations:
        parameters, norm_parameters = _new_parameters(operation, graph.parameters, counted)
        madds = multiply_adds(operation, space_to_batch=space_to_batch)
        if parameters or madds:
            kind = _kind(operation)
            shape = operation.output_shape
            layers.append(LayerComplexity(operation.module, kind, shape, parameters, norm_parameters, madds))
    for name, elements in graph.parameters.items():
        if name not in counted:
            layers.append(LayerComplexity(name.rpartition(".")[0], "unused", (), elements, 0, 0))
    return Complexity(tuple(layers))


def multiply_adds(operation: Operation, *, space_to_batch: bool = False) -> int:
    """Returns the multiply-adds of one operation; see :func:`complexity`."""
    if operation.convolution is not None:
        image, weight = operation.shapes[:2]
        how = operation.convolution
        batch, _, *sides = image if how.transposed else operation.output_shape
        if space_to_batch:
            kernel = weight[2:]
            sides = [
                -(-side // rate) * rate if k > 1 else side
                for side, rate, k in zip(sides, how.dilation, kernel, strict=True)
            ]
        return batch * prod(sides) * prod(weight)
    if operation.name in MATRIX_PRODUCTS:
        first = MATRIX_PRODUCTS[operation.name]
        left, right = operation.shapes[first : first + 2]
        return prod(left) * right[-1]
    return 0


def _new_parameters(operation: Operation, sizes: Mapping[str, int], counted: set[object]) -> tuple[int, int]:
    """Returns an operation's parameters that are not yet counted, and how many of them belong to a normalization."""
    norm = operation.norm
    if norm is None:
        parameters = sum(sizes[name] for name in operation.parameters if name not in counted)
        counted.update(operation.parameters)
        return parameters, parameters if "batch_norm" in operation.name else 0
    # A convolution that two normalizations share becomes two folded ones, each with its own weights.
    pair = (operation.parameters, norm.module, norm.parameters)
    if pair in counted:
        return 0, 0
    counted.update((pair, *operation.parameters, *norm.parameters))
    has_bias = len(operation.shapes) > 2
    return sum(sizes[name] for name in operation.parameters) + (0 if has_bias else operation.output_shape[1]), 0


def _kind(operation: Operation) -> str:
    if operation.convolution is not None:
        weight, groups = operation.shapes[1], operation.convolution.groups
        kernel = " x ".join(map(str, weight[2:]))
        if groups == 1:
            return f"{kernel} conv"
        return f"{kernel} depthwise conv" if groups == operation.shapes[0][1] else f"{kernel} conv, {groups} groups"
    if operation.name in MATRIX_PRODUCTS:
        return "linear" if operation.parameters else "matrix product"
    return operation.name.replace("_", " ")
