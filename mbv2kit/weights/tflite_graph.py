"""Reads the layers of a TFLite file, with their weights as floats."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError, one_line

Kind = Literal["convolution", "depthwise", "dense"]
Activation = Literal["none", "relu", "relu6"]
Padding = Literal["same", "valid", "symmetric"]

# Operations without weights, which do not change the order of the layers.
_PASSING = frozenset({
    "ADD", "ARG_MAX", "AVERAGE_POOL_2D", "CONCATENATION", "DEQUANTIZE", "MEAN", "QUANTIZE", "RESHAPE",
    "RESIZE_BILINEAR", "SOFTMAX", "SQUEEZE", "PAD", "RELU", "RELU6", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND",
})  # fmt: skip
_MOST_OPERATIONS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer with weights, in torch's layout.

    Attributes:
        name: Name of its output in the file, for messages.
        kind: Kind of layer; a depthwise convolution has one filter per channel.
        weight: ``(out, in, k, k)``, ``(channels, 1, k, k)`` for a depthwise one, ``(out, in)`` for a dense one;
            float32, with the scales of a quantized file multiplied in.
        bias: ``(out,)`` float32.
        input_size: Height and width of the input; (1, 1) for a dense layer.
        stride: Stride of the convolution.
        dilation: Dilation of the convolution.
        padding: ``same`` is TensorFlow's SAME, ``symmetric`` the same on all sides by a PAD before it, ``valid`` none.
        activation: Activation after the layer.
    """

    name: str
    kind: Kind
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    input_size: tuple[int, int]
    stride: int = 1
    dilation: int = 1
    padding: Padding = "valid"
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The network in a file.

    Attributes:
        layers: In the order in which they run.
        operations: Number of operations of each kind.
        input_size: Height and width of the image.
        input_scale: Zero point and unit of a quantized file's input, both in 0..255; None for a float file.
        align_corners: Whether resizing aligns the corners; None if nothing is resized.
    """

    layers: list[Layer]
    operations: Mapping[str, int]
    input_size: tuple[int, int]
    input_scale: tuple[float, float] | None
    align_corners: bool | None


def read_graph(path: Path) -> Graph:
    """Reads a TFLite file.

    Raises:
        UserError: The file is damaged, it has an operation that no known network has, or the package that reads the
            format is not installed.
    """
    try:
        import tflite
    except ImportError:
        raise UserError(
            f"Reading {path} needs the package tflite; install it with: pip install 'mbv2kit[weights]'"
        ) from None
    try:
        return _Reader(tflite, path.read_bytes()).read()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    # A FlatBuffer is full of offsets; broken ones may make the reader raise anything.
    except Exception as error:
        raise UserError(f"{path} is damaged or was cut short ({one_line(error)}); fetch it again.") from None


@dataclass(slots=True)
class _Reader:
    """Walks over the operations; facts about a tensor are stored by the index of the tensor."""

    tflite: Any
    content: bytes
    model: Any = None
    graph: Any = None
    layers: list[Layer] = field(default_factory=list)
    operations: dict[str, int] = field(default_factory=dict)
    # By the index of a tensor: position of the layer that computes it, padding added to it, rate by which it is split,
    # constant of which it is a float copy.
    made_by: dict[int, int] = field(default_factory=dict)
    padded: dict[int, Padding] = field(default_factory=dict)
    split: dict[int, int] = field(default_factory=dict)
    constant: dict[int, int] = field(default_factory=dict)
    align_corners: bool | None = None

    def read(self) -> Graph:
        self.model = self.tflite.Model.GetRootAs(self.content, 0)
        if self.model.SubgraphsLength() != 1:
            raise UserError(f"the file has {self.model.SubgraphsLength()} graphs; expected 1.")
        self.graph = self.model.Subgraphs(0)
        count = self.graph.OperatorsLength()
        if not 0 < count < _MOST_OPERATIONS:
            raise UserError(f"the file has {count} operations, as no known network has; it may be damaged.")
        names = {value: name for name, value in vars(self.tflite.BuiltinOperator).items() if isinstance(value, int)}
        for position in range(count):
            operator = self.graph.Operators(position)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            name = names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "of a kind of its own")
            self.operations[name] = self.operations.get(name, 0) + 1
            self._take(name, operator)
        (image,) = (self.graph.Tensors(int(index)) for index in self.graph.InputsAsNumpy())
        shape = image.ShapeAsNumpy().tolist()
        if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < 1:
            raise UserError(f"its input has the shape {shape}; expected an image (1, height, width, 3).")
        return Graph(
            layers=self.layers,
            operations=self.operations,
            input_size=(shape[1], shape[2]),
            input_scale=self._input_scale(image),
            align_corners=self.align_corners,
        )

    def _take(self, name: str, operator: Any) -> None:
        inputs = operator.InputsAsNumpy().tolist()
        (output,) = operator.OutputsAsNumpy().tolist()
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            self.made_by[output] = len(self.layers)
            self.layers.append(self._layer(name, operator, inputs, output))
            return
        if name not in _PASSING:
            raise UserError(f"the file has the operation {name}, which no known network has.")
        source = inputs[0]
        if name == "PAD":
            self.padded[output] = self._padding(self._values(inputs[1]))
        elif name in ("RELU", "RELU6") and source in self.made_by:
            made = self.made_by[source]
            self.layers[made] = replace(self.layers[made], activation="relu" if name == "RELU" else "relu6")
            self.made_by[output] = made
        elif name == "SPACE_TO_BATCH_ND":
            self.split[output] = int(self._values(inputs[1]).ravel()[0])
        elif name == "BATCH_TO_SPACE_ND" and source in self.made_by:
            self.made_by[output] = self.made_by[source]
        elif name == "DEQUANTIZE":
            self.constant[output] = source
        elif name == "RESIZE_BILINEAR":
            options = self._options(operator, self.tflite.ResizeBilinearOptions)
            if not options.AlignCorners() and not options.HalfPixelCenters():
                raise UserError("it resizes by TensorFlow's old rule, which aligns neither corners nor centers.")
            self.align_corners = bool(options.AlignCorners())

    def _layer(self, name: str, operator: Any, inputs: list[int], output: int) -> Layer:
        weight = self._values(inputs[1])
        channels = weight.shape[3] if name == "DEPTHWISE_CONV_2D" else weight.shape[0]
        has_bias = len(inputs) > 2 and inputs[2] >= 0
        common = {
            "name": self.graph.Tensors(output).Name().decode(errors="replace").partition(";")[0],
            "bias": self._values(inputs[2]) if has_bias else np.zeros(channels, dtype=np.float32),
        }
        if name == "FULLY_CONNECTED":
            options = self._options(operator, self.tflite.FullyConnectedOptions)
            return Layer(kind="dense", weight=weight, input_size=(1, 1), activation=self._activation(options), **common)
        depthwise = name == "DEPTHWISE_CONV_2D"
        options = self._options(
            operator, self.tflite.DepthwiseConv2DOptions if depthwise else self.tflite.Conv2DOptions
        )
        if options.StrideH() != options.StrideW() or options.DilationHFactor() != options.DilationWFactor():
            raise UserError(f"the layer '{common['name']}' has different strides or dilations for height and width.")
        rate = self.split.get(inputs[0])
        same = options.Padding() == self.tflite.Padding.SAME or rate is not None
        shape = self.graph.Tensors(inputs[0]).ShapeAsNumpy().tolist()
        return Layer(
            kind="depthwise" if depthwise else "convolution",
            # The layout of the file is (out, height, width, in), for a depthwise kernel (1, height, width, channels).
            weight=np.ascontiguousarray(weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)),
            input_size=(shape[1], shape[2]),
            stride=options.StrideH(),
            dilation=rate or options.DilationHFactor(),
            padding="same" if same else self.padded.get(inputs[0], "valid"),
            activation=self._activation(options),
            **common,
        )

    def _options(self, operator: Any, kind: Any) -> Any:
        options = kind()
        table = operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    def _activation(self, options: Any) -> Activation:
        kinds = self.tflite.ActivationFunctionType
        known: dict[int, Activation] = {kinds.NONE: "none", kinds.RELU: "relu", kinds.RELU6: "relu6"}
        found = options.FusedActivationFunction()
        if found not in known:
            raise UserError(f"it has an activation (number {found}) that no known network has.")
        return known[found]

    def _padding(self, amounts: NDArray[np.float32]) -> Padding:
        _, rows, columns, _ = amounts.astype(int).tolist()
        if rows == columns and rows[0] == rows[1]:
            return "symmetric"
        if rows == columns and rows == [0, 1]:
            return "same"
        raise UserError(f"it pads by {rows} and {columns} pixels, which is neither symmetric nor TensorFlow's SAME.")

    def _values(self, index: int) -> NDArray[np.float32]:
        """Returns a constant of the file as floats."""
        tensor = self.graph.Tensors(self.constant.get(index, index))
        name = tensor.Name().decode(errors="replace")
        types: dict[int, Any] = {
            self.tflite.TensorType.FLOAT32: np.float32,
            self.tflite.TensorType.FLOAT16: np.float16,
            self.tflite.TensorType.UINT8: np.uint8,
            self.tflite.TensorType.INT8: np.int8,
            self.tflite.TensorType.INT32: np.int32,
            self.tflite.TensorType.INT64: np.int64,
        }
        if tensor.Type() not in types:
            raise UserError(f"the constant '{name}' has an unknown type (number {tensor.Type()}).")
        shape = tensor.ShapeAsNumpy().tolist() if tensor.ShapeLength() else []
        raw = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        kind = np.dtype(types[tensor.Type()]).newbyteorder("<")
        if not isinstance(raw, np.ndarray) or raw.nbytes != int(np.prod(shape)) * kind.itemsize:
            raise UserError(
                f"the constant '{name}' does not have the {shape} values that it should; the file is damaged."
            )
        values = raw.view(kind).reshape(shape).astype(np.float64)
        scales = tensor.Quantization()
        if scales is not None and scales.ScaleLength():
            # One scale for all values, or one for each index of an axis.
            sides = [1] * len(shape)
            if scales.ScaleLength() > 1:
                sides[scales.QuantizedDimension()] = scales.ScaleLength()
            zeros = scales.ZeroPointAsNumpy() if scales.ZeroPointLength() else np.zeros(scales.ScaleLength())
            values = (values - zeros.reshape(sides)) * scales.ScaleAsNumpy().astype(np.float64).reshape(sides)
        if not np.isfinite(values).all():
            raise UserError(f"the constant '{name}' holds numbers that are not finite (NaN or infinity).")
        single: NDArray[np.float32] = values.astype(np.float32)
        return single

    def _input_scale(self, image: Any) -> tuple[float, float] | None:
        if image.Type() not in (self.tflite.TensorType.UINT8, self.tflite.TensorType.INT8):
            return None
        scales = image.Quantization()
        (scale,), (zero,) = scales.ScaleAsNumpy().tolist(), scales.ZeroPointAsNumpy().tolist()
        # A signed file takes pixels minus 128.
        offset = 128 if image.Type() == self.tflite.TensorType.INT8 else 0
        return float(zero + offset), 1 / float(scale)
