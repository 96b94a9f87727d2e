"""Parameters and multiply-adds of a network, layer by layer, counted on the operations that it really runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from rich.markup import escape
from rich.table import Table
from torch import nn

from mbv2kit.analysis.contractions import fold_norms
from mbv2kit.analysis.graph import Graph, Operation, Shape, trace

# Operator -> place of the first of its two matrices among the arguments; in front of it is what is added.
MATRIX_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}


@dataclass(frozen=True, slots=True)
class LayerComplexity:
    """What one step of the network costs.

    Attributes:
        module: Path of the module that ran it.
        kind: What it is, such as ``3 x 3 depthwise conv``, ``linear`` or ``batch norm``; ``unused`` for parameters that
            no step reads.
        output_shape: Of its result, the batch first; empty for what is unused.
        parameters: That are counted here; what a module costs that runs twice is counted the first time.
        norm_parameters: How many of them are scales and shifts of a batch normalization.
        madds: Its multiply-adds.
    """

    module: str
    kind: str
    output_shape: Shape
    parameters: int
    norm_parameters: int
    madds: int


@dataclass(frozen=True, slots=True)
class Complexity:
    """What a network costs for one image.

    Attributes:
        layers: Every step that has parameters or multiply-adds, in the order in which they run.
    """

    layers: tuple[LayerComplexity, ...]

    @property
    def parameters(self) -> int:
        """All weights, biases, and scales and shifts of batch normalizations."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def norm_parameters(self) -> int:
        """Scales and shifts of batch normalizations, which the paper's figures for parameters leave out."""
        return sum(layer.norm_parameters for layer in self.layers)

    @property
    def madds(self) -> int:
        """All multiply-adds."""
        return sum(layer.madds for layer in self.layers)


def complexity(
    model: nn.Module, size: tuple[int, int], *, folded: bool = False, space_to_batch: bool = False
) -> Complexity:
    """Counts what a model costs in use.

    A convolution has ``out_h * out_w * out_c * in_c / groups * k * k`` multiply-adds, a product of matrices as many as
    it multiplies numbers, and nothing else has any: no bias, normalization, activation, pooling or addition.

    Args:
        model: On any device; see :func:`~mbv2kit.analysis.graph.trace`.
        size: Height and width of the input.
        folded: Whether batch normalizations are folded into the convolutions before them, each of which then has its
            weights and one bias a channel.
        space_to_batch: Whether dilated convolutions are charged on a map padded to a multiple of the dilation on each
            side, as TensorFlow ran them; the multiply-adds of the paper's Table 7 are such.

    Raises:
        UserError: The model cannot run on such an input.
    """
    graph = trace(model, size)
    return graph_complexity(fold_norms(graph) if folded else graph, space_to_batch=space_to_batch)


def graph_complexity(graph: Graph, *, space_to_batch: bool = False) -> Complexity:
    """Counts what the operations of a traced graph cost; see :func:`complexity`."""
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


def complexity_table(complexity: Complexity) -> Table:
    """Builds a table for people: a row a layer, the sums below."""
    table = Table("module", "layer", show_footer=True)
    table.add_column("output", "sum", justify="right")
    table.add_column("parameters", f"{complexity.parameters:,}", justify="right")
    table.add_column("multiply-adds", f"{complexity.madds:,}", justify="right")
    for layer in complexity.layers:
        shape = " x ".join(map(str, layer.output_shape[1:]))
        table.add_row(escape(layer.module), layer.kind, shape, f"{layer.parameters:,}", f"{layer.madds:,}")
    table.caption = f"{complexity.norm_parameters:,} of the parameters belong to batch normalizations"
    return table


def _new_parameters(operation: Operation, sizes: Mapping[str, int], counted: set[object]) -> tuple[int, int]:
    """The parameters of an operation that were not counted before, and how many of them are a normalization's."""
    norm = operation.norm
    if norm is None:
        parameters = sum(sizes[name] for name in operation.parameters if name not in counted)
        counted.update(operation.parameters)
        return parameters, parameters if "batch_norm" in operation.name else 0
    # A convolution that two normalizations share is folded into two, each with weights of its own.
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
