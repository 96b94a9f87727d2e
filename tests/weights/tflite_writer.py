"""Writes classifiers as TFLite files, to test reading in every form that such files have."""

from typing import Any, Literal

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from torch import nn

from mbv2kit.heads.classifier import Classifier
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import ConvNormAct, InvertedResidual
from tests.norms import folded

Form = Literal["float32", "float16", "int8 weights"]

RELU6 = schema.ActivationFunctionType.RELU6
FIRST_VERSION = (
    schema.BuiltinOperator.RESHAPE,
    schema.BuiltinOperator.LOGISTIC,
    schema.BuiltinOperator.CONCATENATION,
)
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID


class TFLiteWriter:
    """A graph that grows layer by layer; tensors are numbers, as in the file.

    Args:
        size: Side of the input image.
        form: How weights are stored.
        pad: Whether strided convolutions pad by a separate operation: (0, 1) pixels as Keras does with ``tf_same``,
            else (1, 1).
        dense: Whether the classifier is a dense layer after a MEAN, not a convolution after pooling.
    """

    def __init__(self, size: int, form: Form = "float32", *, pad: bool = False, dense: bool = False) -> None:
        self.form, self.pad, self.dense = form, pad, dense
        self.buffers = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[int | str] = []
        self.sizes: dict[int, tuple[int, int]] = {}
        self.image = self.tensor("image", (1, size, size, 3))
        self.sizes[self.image] = (size, 3)

    def tensor(self, name: str, shape: tuple[int, ...], values: NDArray[Any] | None = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), schema.TensorType.FLOAT32
        if values is not None:
            kinds = {"float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "int32": "INT32"}
            tensor.type = getattr(schema.TensorType, kinds[str(values.dtype)])
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), dtype=np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, name: str, inputs: list[int], output: int, options: Any = None) -> int:
        operator = self._operator(getattr(schema.BuiltinOperator, name), inputs, [output])
        if options is not None:
            operator.builtinOptions = options
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        return output

    def custom(self, name: str, inputs: list[int], outputs: list[int], options: bytes) -> None:
        """Adds an operation that only some interpreters know."""
        operator = self._operator(name, inputs, outputs)
        operator.customOptions = np.frombuffer(options, dtype=np.uint8)

    def _operator(self, code: int | str, inputs: list[int], outputs: list[int]) -> Any:
        if code not in self.codes:
            self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self.codes.index(code), inputs, outputs
        self.operators.append(operator)
        return operator

    def weight(self, name: str, values: NDArray[np.float32], axis: int) -> int:
        """Adds the weights of a layer, whose output channels lie along ``axis``, in the form of this file."""
        if self.form == "float16":
            half = self.tensor(f"{name}/half", values.shape, values.astype(np.float16))
            return self.operator("DEQUANTIZE", [half], self.tensor(name, values.shape))
        if self.form == "float32":
            return self.tensor(name, values.shape, values)
        others = tuple(k for k in range(values.ndim) if k != axis)
        scale = np.abs(values).max(axis=others, keepdims=True) / 127
        index = self.tensor(name, values.shape, np.round(values / scale).astype(np.int8))
        scales = schema.QuantizationParametersT()
        scales.scale, scales.quantizedDimension = scale.ravel().tolist(), axis
        scales.zeroPoint = [0] * scale.size
        self.tensors[index].quantization = scales
        return index

    def convolution(self, source: int, name: str, block: ConvNormAct) -> int:
        conv, norm = block.conv, block.norm
        return self.layer(source, name, conv, *folded(conv, norm), relu6=hasattr(block, "act"))

    def layer(
        self,
        source: int,
        name: str,
        conv: nn.Conv2d,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        *,
        relu6: bool = False,
    ) -> int:
        """Adds a convolution like ``conv``, with these weights."""
        size, _ = self.sizes[source]
        stride, depthwise = conv.stride[0], conv.groups > 1
        padding = SAME
        if self.pad and stride == 2:
            before = 0 if getattr(conv, "same", False) and size % 2 == 0 else 1
            amounts = np.array([[0, 0], [before, 1], [before, 1], [0, 0]], dtype=np.int32)
            padded = size + before + 1
            source = self.operator(
                "PAD",
                [source, self.tensor(f"{name}/amounts", amounts.shape, amounts)],
                self.tensor(f"{name}/padded", (1, padded, padded, conv.in_channels)),
                schema.PadOptionsT(),
            )
            padding = VALID
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = padding, stride, stride
        options.dilationHFactor = options.dilationWFactor = conv.dilation[0]
        options.fusedActivationFunction = RELU6 if relu6 else 0
        if depthwise:
            options.depthMultiplier = 1
        kernel = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
        size = -(-size // stride)
        output = self.tensor(name, (1, size, size, conv.out_channels))
        self.sizes[output] = (size, conv.out_channels)
        return self.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [
                source,
                self.weight(f"{name}/weight", kernel, 3 if depthwise else 0),
                self.tensor("bias", bias.shape, bias),
            ],
            output,
            options,
        )

    def classifier(self, source: int, head: Classifier) -> int:
        size, channels = self.sizes[source]
        weight = head.linear.weight.detach().numpy()
        bias = head.linear.bias.detach().numpy()
        classes = len(bias)
        if self.dense:
            axes = np.array([1, 2], dtype=np.int32)
            pooled = self.operator(
                "MEAN", [source, self.tensor("axes", (2,), axes)], self.tensor("pooled", (1, channels)),
                schema.ReducerOptionsT(),
            )  # fmt: skip
            inputs = [pooled, self.weight("dense", weight, 0), self.tensor("bias", bias.shape, bias)]
            logits = self.operator("FULLY_CONNECTED", inputs, self.tensor("logits", (1, classes)),
                                   schema.FullyConnectedOptionsT())  # fmt: skip
        else:
            options = schema.Pool2DOptionsT()
            options.filterHeight = options.filterWidth = size
            options.strideH = options.strideW = 1
            options.padding = VALID
            pooled = self.operator("AVERAGE_POOL_2D", [source], self.tensor("pooled", (1, 1, 1, channels)), options)
            conv = schema.Conv2DOptionsT()
            conv.strideH = conv.strideW = 1
            inputs = [pooled, self.weight("last", weight[:, None, None], 0), self.tensor("bias", bias.shape, bias)]
            logits = self.operator("CONV_2D", inputs, self.tensor("logits", (1, 1, 1, classes)), conv)
        softmax = schema.SoftmaxOptionsT()
        softmax.beta = 1.0
        shape = tuple(self.tensors[logits].shape)
        return self.operator("SOFTMAX", [logits], self.tensor("scores", shape), softmax)

    def finish(self, *outputs: int) -> bytes:
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = [self.image], list(outputs)
        codes = []
        for code in self.codes:
            entry = schema.OperatorCodeT()
            if isinstance(code, str):
                entry.builtinCode = entry.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
                entry.customCode = code
            else:
                entry.builtinCode = entry.deprecatedBuiltinCode = code
            # Version 1 of depthwise convolution and others supports neither dilation nor int8 weights.
            entry.version = (
                1 if code in FIRST_VERSION or isinstance(code, str) else 3 if self.form == "int8 weights" else 2
            )
            codes.append(entry)
        model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], codes, self.buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def write_backbone(writer: TFLiteWriter, model: VisionModel) -> dict[str, int]:
    """Adds the backbone of a model, and returns its maps."""
    maps: dict[str, int] = {}
    current = writer.image
    for name, layer in model.backbone.layers.items():
        bottleneck = current
        blocks = [("", layer)] if isinstance(layer, ConvNormAct) else list(layer.named_children())
        for part, block in blocks:
            if isinstance(block, ConvNormAct):
                current = writer.convolution(current, f"{name}/{part}".rstrip("/"), block)
                if part == "expand":
                    maps[f"{name}_expansion"] = current
        if isinstance(layer, InvertedResidual) and layer.adds_input:
            size, channels = writer.sizes[current]
            added = writer.tensor(f"{name}/added", (1, size, size, channels))
            writer.sizes[added] = (size, channels)
            current = writer.operator("ADD", [current, bottleneck], added, schema.AddOptionsT())
        maps[name] = current
    return maps


def write_classifier(model: VisionModel, size: int, form: Form = "float32", **options: bool) -> bytes:
    """Returns the TFLite file of a classifier on MobileNetV1 or MobileNetV2."""
    writer = TFLiteWriter(size, form, **options)
    current = list(write_backbone(writer, model).values())[-1]
    head = model.heads["classification"]
    assert isinstance(head, Classifier)
    return writer.finish(writer.classifier(current, head))
