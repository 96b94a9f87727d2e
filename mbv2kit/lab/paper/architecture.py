"""Table 2 for mbv2kit's MobileNetV2, read from the operations of one forward pass."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from mbv2kit.analysis.graph import Operation
from mbv2kit.lab.paper.cases import build, classifier, cost_of, graph_of

MOBILENET_V2 = classifier("mobilenet_v2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer as Table 2 counts them.

    Attributes:
        name: Path of the module.
        operator: Name of the operator in the table.
        size: Side of the input.
        channels: Channels of the input.
        expansion: t; None except for bottlenecks.
        out_channels: c; None for the pooling.
        stride: s; None for the pooling and the classifier.
        parameters: Parameters, including batch norm.
        madds: Multiply-adds of one pass.
    """

    name: str
    operator: str
    size: int
    channels: int
    expansion: int | None = None
    out_channels: int | None = None
    stride: int | None = None
    parameters: int = 0
    madds: int = 0


@cache
def layers() -> tuple[Layer, ...]:
    """Returns the layers of MobileNetV2 on an image of 224 x 224 pixels, in order of execution."""
    operations = graph_of(MOBILENET_V2.network, MOBILENET_V2.size).operations
    found = []
    for number in build(MOBILENET_V2.network).backbone.layers:
        name = f"backbone.layers.{number}"
        found.append(_convolutional(name, [operation for operation in operations if _lies_in(operation.module, name)]))
    head = [operation for operation in operations if operation.module.startswith("heads.")]
    pool = next(operation for operation in head if operation.name == "mean")
    linear = next(operation for operation in head if operation.name == "addmm")
    _, channels, side, _ = pool.shapes[0]
    found.append(Layer(name=pool.module, operator=f"avgpool {side}x{side}", size=side, channels=channels))
    outputs = linear.output_shape[1]
    parameters, madds = _cost(linear.module)
    found.append(
        Layer(
            name=linear.module,
            operator="conv2d 1x1",
            size=1,
            channels=channels,
            out_channels=outputs,
            parameters=parameters,
            madds=madds,
        )
    )
    return tuple(found)


def rows() -> list[tuple[int, ...]]:
    """Returns the rows of Table 2, each as the columns that are filled, from left to right.

    A row of bottlenecks has the size and channels of the input, t, c, n and s. A convolution has no t, the classifier
    has neither t, n nor s, and the pooling has no c either.
    """
    result = []
    for _, group in groupby(layers(), key=lambda layer: (layer.operator, layer.expansion, layer.out_channels)):
        first, *others = group
        columns = [first.size, first.channels, first.expansion, first.out_channels]
        repeated = [1 + len(others), first.stride] if first.stride is not None else []
        result.append(tuple(value for value in (*columns, *repeated) if value is not None))
    return result


def _convolutional(name: str, operations: Iterable[Operation]) -> Layer:
    convolutions = [(op, op.convolution) for op in operations if op.convolution is not None]
    first, last = convolutions[0][0], convolutions[-1][0]
    _, channels, side, _ = first.shapes[0]
    kernel = first.shapes[1][2]
    wide = next((op.output_shape[1] for op, convolution in convolutions if convolution.groups > 1), None)
    parameters, madds = _cost(name)
    return Layer(
        name=name,
        operator="bottleneck" if wide else "conv2d" if kernel > 1 else "conv2d 1x1",
        size=side,
        channels=channels,
        expansion=wide // channels if wide else None,
        out_channels=last.output_shape[1],
        stride=max(convolution.stride[0] for _, convolution in convolutions),
        parameters=parameters,
        madds=madds,
    )


def _cost(name: str) -> tuple[int, int]:
    parts = [part for part in cost_of(MOBILENET_V2.network, MOBILENET_V2.size).layers if _lies_in(part.module, name)]
    return sum(part.parameters for part in parts), sum(part.madds for part in parts)


def _lies_in(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")
