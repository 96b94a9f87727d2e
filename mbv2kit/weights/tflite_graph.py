"""Reads the layers of a TFLite file, with their weights as floats."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.weights.layer_recorder import LayerRecorder, Passing
from mbv2kit.weights.network_graph import Activation, Layer, NetworkGraph, Padding, Predictions, name_padding

# Operations without weights, which do not change the order of the layers.
_PASSING: dict[str, Passing] = {
    "ADD": "add",
    "CONCATENATION": "join",
    "RELU": "relu",
    "RELU6": "relu6",
    "BATCH_TO_SPACE_ND": "merge",
    "LOGISTIC": "sigmoid",
    "SOFTMAX": "softmax",
    "ARG_MAX": "pass",
    "AVERAGE_POOL_2D": "pass",
    "DEQUANTIZE": "pass",
    "MEAN": "pass",
    "PAD": "pass",
    "QUANTIZE": "pass",
    "RESHAPE": "pass",
    "RESIZE_BILINEAR": "pass",
    "SPACE_TO_BATCH_ND": "pass",
    "SQUEEZE": "pass",
}
_POSTPROCESS = "TFLite_Detection_PostProcess"
_MOST_OPERATIONS = 10_000


def read_graph(path: Path) -> NetworkGraph:
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
    except Exception:
        raise UserError(f"{path} is damaged or was cut short; fetch it again.") from None


@dataclass(slots=True)
class _Reader:
    """Walks over the operations; facts about a tensor are stored by the index of the tensor."""

    tflite: Any
    content: bytes
    model: Any = None
    graph: Any = None
    found: LayerRecorder = field(default_factory=LayerRecorder)
    # By the index of a tensor: padding added to it, rate by which it is split, constant of which it is a float copy.
    padded: dict[int, Padding] = field(default_factory=dict)
    split: dict[int, int] = field(default_factory=dict)
    constant: dict[int, int] = field(default_factory=dict)
    align_corners: bool | None = None
    predictions: Predictions | None = None

    def read(self) -> NetworkGraph:
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
            if name == "CUSTOM" and code.CustomCode() is not None:
                name = code.CustomCode().decode(errors="replace")
            self._take(name, operator)
        (image,) = (self.graph.Tensors(int(index)) for index in self.graph.InputsAsNumpy())
        shape = image.ShapeAsNumpy().tolist()
        if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < 1:
            raise UserError(f"its input has the shape {shape}; expected an image (1, height, width, 3).")
        scale = self._input_scale(image)
        return NetworkGraph(
            layers=self.found.layers,
            shortcuts=self.found.shortcuts,
            input_size=(shape[1], shape[2]),
            input_scale=scale,
            quantized=scale is not None,
            align_corners=self.align_corners,
            predictions=self.predictions or self._raw_predictions(),
        )

    def _take(self, name: str, operator: Any) -> None:
        inputs = operator.InputsAsNumpy().tolist()
        if name == _POSTPROCESS:
            self.predictions = self._postprocess(operator, inputs)
            return
        (output,) = operator.OutputsAsNumpy().tolist()
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            self.found.add(self._layer(name, operator, inputs, output), output)
            return
        if name not in _PASSING:
            raise UserError(f"the file has the operation {name}, which no known network has.")
        source = inputs[0]
        if name == "PAD":
            self.padded[output] = name_padding(self._values(inputs[1]).astype(int), "it")
        elif name == "SPACE_TO_BATCH_ND":
            self.split[output] = int(self._values(inputs[1]).ravel()[0])
        elif name == "DEQUANTIZE" and source not in self.found.traces:
            self.constant[output] = source
        elif name == "RESIZE_BILINEAR":
            options = self._options(operator, self.tflite.ResizeBilinearOptions)
            if not options.AlignCorners() and not options.HalfPixelCenters():
                raise UserError("it resizes by TensorFlow's old rule, which aligns neither corners nor centers.")
            self.align_corners = bool(options.AlignCorners())
        self.found.carry(_PASSING[name], inputs, output)

    def _postprocess(self, operator: Any, inputs: list[int]) -> Predictions:
        """Reads TensorFlow Lite's operation that decodes boxes and suppresses duplicates."""
        from flatbuffers import flexbuffers

        boxes, scores, anchors = inputs
        options = flexbuffers.Loads(operator.CustomOptionsAsNumpy().tobytes())
        centers, sides = np.split(self._values(anchors), 2, axis=1)
        # The file has y before x.
        corners = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)[:, [1, 0, 3, 2]]
        scale = self._scales(anchors)
        y, x, height, width = (float(options[f"{side}_scale"]) for side in "yxhw")
        return replace(
            self._predictions(boxes, scores),
            anchors=corners,
            fuzzy_anchors=0.0 if scale is None else float(scale.max()),
            code_weights=(y, x, height, width),
            nms={
                "score_threshold": float(options["nms_score_threshold"]),
                "nms_iou": float(options["nms_iou_threshold"]),
                "max_detections": int(options["max_detections"]),
            },
        )

    def _raw_predictions(self) -> Predictions | None:
        """Finds box codes and class logits among the outputs of the file; None if it is no detector."""
        outputs = self.graph.OutputsAsNumpy().tolist()
        joins = [index for index in outputs if index in self.found.traces and self.found.traces[index].joined]
        if len(outputs) != 2 or len(joins) != 2:
            return None
        first, second = joins
        if self._is_scores(first) and not self._is_scores(second):
            first, second = second, first
        return self._predictions(first, second)

    def _is_scores(self, index: int) -> bool:
        tensor = self.graph.Tensors(index)
        named = any(word in tensor.Name().decode(errors="replace").lower() for word in ("class", "score"))
        return self.found.traces[index].scores is not None or tensor.ShapeAsNumpy().tolist()[-1] != 4 or named

    def _predictions(self, boxes: int, scores: int) -> Predictions:
        for index in (boxes, scores):
            if index not in self.found.traces or not self.found.traces[index].joined:
                raise UserError("its boxes or scores do not come from layers on several maps, as those of SSD do.")
        return Predictions(
            boxes=self.found.traces[boxes].joined,
            scores=self.found.traces[scores].joined,
            columns=int(self.graph.Tensors(scores).ShapeAsNumpy()[-1]),
            score_function=self.found.traces[scores].scores,
        )

    def _layer(self, name: str, operator: Any, inputs: list[int], output: int) -> Layer:
        weight = self._values(inputs[1])
        channels = weight.shape[3] if name == "DEPTHWISE_CONV_2D" else weight.shape[0]
        has_bias = len(inputs) > 2 and inputs[2] >= 0
        common = {
            "name": self.graph.Tensors(output).Name().decode(errors="replace").partition(";")[0],
            "bias": self._values(inputs[2]) if has_bias else np.zeros(channels, dtype=np.float32),
            "source": self.found.source(inputs[0]),
        }
        if name == "FULLY_CONNECTED":
            options = self._options(operator, self.tflite.FullyConnectedOptions)
            return Layer(kind="dense", weight=weight, pooled=True, activation=self._activation(options), **common)
        depthwise = name == "DEPTHWISE_CONV_2D"
        options = self._options(
            operator, self.tflite.DepthwiseConv2DOptions if depthwise else self.tflite.Conv2DOptions
        )
        if options.StrideH() != options.StrideW() or options.DilationHFactor() != options.DilationWFactor():
            raise UserError(f"the layer '{common['name']}' has different strides or dilations for height and width.")
        if options.StrideH() < 1 or options.DilationHFactor() < 1:
            raise UserError(f"the layer '{common['name']}' has a stride or a dilation below 1.")
        rate = self.split.get(inputs[0])
        same = options.Padding() == self.tflite.Padding.SAME or rate is not None
        shape = self.graph.Tensors(inputs[0]).ShapeAsNumpy().tolist()
        return Layer(
            kind="depthwise" if depthwise else "convolution",
            # The layout of the file is (out, height, width, in), for a depthwise kernel (1, height, width, channels).
            weight=np.ascontiguousarray(weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)),
            pooled=shape[1:3] == [1, 1],
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

    def _scales(self, index: int) -> NDArray[np.float64] | None:
        """Returns the scales of a quantized tensor; None if it holds floats."""
        scales = self.graph.Tensors(index).Quantization()
        return None if scales is None or not scales.ScaleLength() else scales.ScaleAsNumpy().astype(np.float64)

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
