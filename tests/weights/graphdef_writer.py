"""Writes models as TensorFlow's frozen graphs, in the layout of TF-slim and of the Object Detection API."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mbv2kit.heads.classifier import Classifier
from mbv2kit.heads.ssd import SSD
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import ConvNormAct, InvertedResidual
from mbv2kit.weights.graphdef import messages
from tests.norms import folded

Norms = Literal["fused", "parts", "folded"]
Anchors = Literal["computed", "numbers", "left out"]

FLOAT, INT, UINT8 = 1, 3, 4
# Where each number of a code of ours stands in the API's: y, x, height, width.
CODE_ORDER = [1, 0, 3, 2]


class GraphWriter:
    """A graph that grows node by node; tensors are names.

    Args:
        norms: How batch norms are written: as one operation, as the parts of its arithmetic, or folded into weights.
    """

    def __init__(self, norms: Norms = "fused") -> None:
        self.norms = norms
        self.graph = messages()["GraphDef"]()

    def op(self, kind: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        node = self.graph.node.add(name=name, op=kind, input=list(inputs))
        for key, value in attributes.items():
            entry = node.attr.add(key=key)
            if isinstance(value, bool):
                entry.value.b = value
            elif isinstance(value, float):
                entry.value.f = value
            elif isinstance(value, bytes):
                entry.value.s = value
            elif isinstance(value, int) and key in ("N", "axis", "num"):
                entry.value.i = value
            elif isinstance(value, int):
                entry.value.type = value
            else:
                entry.value.list.i.extend(value)
        return name

    def const(self, name: str, values: Any) -> str:
        array = np.asarray(values)
        kind = FLOAT if array.dtype.kind == "f" else INT
        array = array.astype(np.float32 if kind == FLOAT else np.int32)
        node = self.graph.node.add(name=name, op="Const")
        node.attr.add(key="dtype").value.type = kind
        tensor = node.attr.add(key="value").value.tensor
        tensor.dtype = kind
        for side in array.shape:
            tensor.tensor_shape.dim.add(size=side)
        if array.ndim:
            tensor.tensor_content = array.tobytes()
        elif kind == FLOAT:
            tensor.float_val.append(float(array))
        else:
            tensor.int_val.append(int(array))
        return name

    def image(self, size: int, *, resized: bool) -> str:
        """Adds the input: any uint8 image that is resized and scaled to -1..1, or a float image of one size."""
        sides = (-1, -1) if resized else (size, size)
        node = self.graph.node.add(name="image_tensor" if resized else "input", op="Placeholder")
        node.attr.add(key="dtype").value.type = UINT8 if resized else FLOAT
        shape = node.attr.add(key="shape").value.shape
        for side in (-1, *sides, 3):
            shape.dim.add(size=side)
        if not resized:
            return "input"
        floats = self.op("Cast", "ToFloat", [node.name], SrcT=UINT8, DstT=FLOAT)
        wanted = self.const("Preprocessor/size", [size, size])
        resized_image = self.op("ResizeBilinear", "Preprocessor/Resize", [floats, wanted], T=FLOAT, align_corners=False)
        scaled = self.op("Mul", "Preprocessor/mul", [self.const("Preprocessor/mul/x", 2 / 255), resized_image], T=FLOAT)
        return self.op("Sub", "Preprocessor/sub", [scaled, self.const("Preprocessor/sub/y", 1.0)], T=FLOAT)

    def convolution(self, source: str, name: str, conv: nn.Conv2d, weight: NDArray[np.float32]) -> str:
        depthwise = conv.groups > 1
        order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        kernel = self.const(f"{name}/weights", np.ascontiguousarray(weight.transpose(order)))
        kernel = self.op("Identity", f"{name}/weights/read", [kernel], T=FLOAT)
        kind = "DepthwiseConv2dNative" if depthwise else "Conv2D"
        stride = conv.stride[0]
        padding = b"SAME"
        if stride > 1 and not getattr(conv, "same", False):
            edge = conv.padding[0]
            amounts = self.const(f"{name}/amounts", [[0, 0], [edge, edge], [edge, edge], [0, 0]])
            source, padding = self.op("Pad", f"{name}/Pad", [source, amounts], T=FLOAT, Tpaddings=INT), b"VALID"
        return self.op(
            kind, f"{name}/{kind}", [source, kernel], T=FLOAT, strides=[1, stride, stride, 1], padding=padding
        )

    def block(self, source: str, name: str, block: ConvNormAct) -> str:
        conv, norm = block.conv, block.norm
        if self.norms == "folded":
            weight, bias = folded(conv, norm)
            current = self.convolution(source, name, conv, weight)
            current = self.op("BiasAdd", f"{name}/BiasAdd", [current, self.const(f"{name}/biases", bias)], T=FLOAT)
        else:
            current = self.convolution(source, name, conv, conv.weight.detach().numpy())
            current = self.norm(current, f"{name}/BatchNorm", norm)
        return self.op("Relu6", f"{name}/Relu6", [current], T=FLOAT) if hasattr(block, "act") else current

    def norm(self, source: str, name: str, norm: nn.BatchNorm2d) -> str:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        tensors = {"gamma": norm.weight, "beta": norm.bias, "mean": norm.running_mean, "variance": norm.running_var}
        gamma, beta, mean, variance = (
            self.const(f"{name}/{key}", tensor.detach().numpy()) for key, tensor in tensors.items()
        )
        if self.norms == "fused":
            inputs = [source, gamma, beta, mean, variance]
            return self.op(
                "FusedBatchNorm", f"{name}/FusedBatchNorm", inputs, T=FLOAT, epsilon=float(norm.eps), is_training=False
            )
        sum_ = self.op("Add", f"{name}/add", [variance, self.const(f"{name}/eps", norm.eps)], T=FLOAT)
        root = self.op("Rsqrt", f"{name}/Rsqrt", [sum_], T=FLOAT)
        scale = self.op("Mul", f"{name}/mul", [root, gamma], T=FLOAT)
        scaled = self.op("Mul", f"{name}/mul_1", [source, scale], T=FLOAT)
        moved = self.op("Mul", f"{name}/mul_2", [mean, scale], T=FLOAT)
        offset = self.op("Sub", f"{name}/sub", [beta, moved], T=FLOAT)
        return self.op("Add", f"{name}/add_1", [scaled, offset], T=FLOAT)

    def plain(self, source: str, name: str, conv: nn.Conv2d, rows: NDArray[np.int64] | None = None) -> str:
        """Adds a convolution with a bias, with its outputs in another order."""
        assert conv.bias is not None
        weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        if rows is not None:
            weight, bias = weight[rows], bias[rows]
        current = self.convolution(source, name, conv, weight)
        return self.op("BiasAdd", f"{name}/BiasAdd", [current, self.const(f"{name}/biases", bias)], T=FLOAT)

    def backbone(self, model: VisionModel, image: str) -> dict[str, str]:
        """Adds the backbone, and returns the names of its maps."""
        maps, current = {}, image
        for name, layer in model.backbone.layers.items():
            before = current
            blocks = [("", layer)] if isinstance(layer, ConvNormAct) else list(layer.named_children())
            for part, block in blocks:
                if isinstance(block, ConvNormAct):
                    current = self.block(current, f"FeatureExtractor/{name}/{part}".rstrip("/"), block)
                    if part == "expand":
                        maps[f"{name}_expansion"] = current
            if isinstance(layer, InvertedResidual) and layer.adds_input:
                current = self.op("Add", f"FeatureExtractor/{name}/add", [current, before], T=FLOAT)
            maps[name] = current
        return maps

    def finish(self) -> bytes:
        content: bytes = self.graph.SerializeToString()
        return content


def write_classifier(model: VisionModel, size: int, norms: Norms = "fused") -> bytes:
    """Returns the frozen graph of a classifier, as TF-slim builds it."""
    writer = GraphWriter(norms)
    current = list(writer.backbone(model, writer.image(size, resized=False)).values())[-1]
    head = model.heads["classification"]
    assert isinstance(head, Classifier)
    axes = writer.const("Logits/axes", [1, 2])
    pooled = writer.op("Mean", "Logits/AvgPool", [current, axes], T=FLOAT, Tidx=INT, keep_dims=True)
    last = nn.Conv2d(head.linear.in_features, head.linear.out_features, 1)
    with torch.no_grad():
        last.weight.copy_(head.linear.weight[:, :, None, None])
        last.bias.copy_(head.linear.bias)  # type: ignore[union-attr]
    logits = writer.plain(pooled, "Logits/Conv2d_1c_1x1", last)
    flat = writer.op("Squeeze", "Logits/Squeeze", [logits], T=FLOAT, squeeze_dims=[1, 2])
    writer.op("Softmax", "Predictions/Softmax", [flat], T=FLOAT)
    return writer.finish()


def write_detector(
    model: VisionModel,
    size: int,
    norms: Norms = "fused",
    anchors: Anchors = "computed",
    *,
    code_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    scored: bool = True,
) -> bytes:
    """Returns the frozen graph of a detector, up to where its boxes are decoded and suppressed.

    Args:
        model: SSD or SSDLite on MobileNetV1 or MobileNetV2.
        size: Side to which images are resized.
        norms: How batch norms are written.
        anchors: How anchors are written: by the API's arithmetic, as numbers, or not at all.
        code_weights: By how much the y, x, height and width of a code are divided.
        scored: Whether the graph turns logits into scores.
    """
    writer = GraphWriter(norms)
    maps = writer.backbone(model, writer.image(size, resized=True))
    head = model.heads["detection"]
    assert isinstance(head, SSD)
    sources = [maps[name] for name in head.features]
    for place, extra in enumerate(head.extras):
        blocks = [block for block in extra.modules() if isinstance(block, ConvNormAct)]
        current = sources[-1]
        for part, block in enumerate(blocks):
            current = writer.block(current, f"FeatureExtractor/extra_{place}_{part}", block)
        sources.append(current)
    boxes, scores = [], []
    factors = np.array([10, 10, 5, 5]) / np.array(code_weights)
    for place, (source, regressor, classifier) in enumerate(
        zip(sources, head.regressors, head.classifiers, strict=True)
    ):
        name = f"BoxPredictor_{place}"
        boxes.append(_predict(writer, source, f"{name}/BoxEncodingPredictor", regressor, factors, [-1, 4]))
        columns = [-1, head.num_classes + 1]
        scores.append(_predict(writer, source, f"{name}/ClassPredictor", classifier, None, columns))
    axis = writer.const("axis", 1)
    codes = writer.op("ConcatV2", "concat", [*boxes, axis], T=FLOAT, Tidx=INT, N=len(boxes))
    logits = writer.op("ConcatV2", "concat_1", [*scores, axis], T=FLOAT, Tidx=INT, N=len(scores))
    _decode(writer, codes, code_weights)
    if scored:
        kind = "Sigmoid" if head.scores == "sigmoid" else "Softmax"
        scaled = writer.op("RealDiv", "Postprocessor/scale", [logits, writer.const("Postprocessor/one", 1.0)], T=FLOAT)
        writer.op(kind, "Postprocessor/convert_scores", [scaled], T=FLOAT)
    if anchors == "computed":
        for place, cell in enumerate(head.shapes):
            _compute_anchors(writer, f"AnchorGenerator/{place}", cell)
    elif anchors == "numbers":
        writer.const("Postprocessor/anchors", _anchors_of(model, size)[:, [1, 0, 3, 2]])
    return writer.finish()


def _anchors_of(model: VisionModel, size: int) -> NDArray[np.float32]:
    with torch.inference_mode():
        anchors = model(torch.zeros(1, 3, size, size, dtype=torch.uint8))["detection"]["anchors"]
    values: NDArray[np.float32] = anchors.numpy()
    return values


def _predict(
    writer: GraphWriter,
    source: str,
    name: str,
    predictor: nn.Module,
    factors: NDArray[np.float64] | None,
    shape: Sequence[int],
) -> str:
    conv = predictor
    if isinstance(predictor, nn.Sequential):
        depthwise, conv = predictor.children()
        assert isinstance(depthwise, ConvNormAct)
        source = writer.block(source, f"{name}_depthwise", depthwise)
    assert isinstance(conv, nn.Conv2d)
    rows = None
    if factors is not None:
        # The file's codes are those of ours, in another order and divided by other weights.
        cells = np.arange(conv.out_channels).reshape(-1, 4)
        rows = cells[:, CODE_ORDER].ravel()
        with torch.no_grad():
            scale = torch.from_numpy(np.tile(factors, len(cells))).float()
            copy = deepcopy(conv)
            inverse = torch.empty_like(scale)
            inverse[torch.from_numpy(rows)] = 1 / scale
            copy.weight.copy_(conv.weight * inverse[:, None, None, None])
            copy.bias.copy_(conv.bias * inverse)  # type: ignore[union-attr, operator]
        conv = copy
    flat = writer.const(f"{name}/shape", [1, *shape])
    return writer.op("Reshape", f"{name}/Reshape", [writer.plain(source, name, conv, rows), flat], T=FLOAT, Tshape=INT)


def _decode(writer: GraphWriter, codes: str, weights: Sequence[float]) -> None:
    flat = writer.op("Reshape", "Postprocessor/Reshape", [codes, writer.const("Postprocessor/shape", [-1, 4])], T=FLOAT)
    turned = writer.op(
        "Transpose", "Postprocessor/transpose", [flat, writer.const("Postprocessor/perm", [1, 0])], T=FLOAT
    )
    writer.op("Unpack", "Postprocessor/unstack", [turned], T=FLOAT, num=4, axis=0)
    for place, weight in enumerate(weights):
        part = "Postprocessor/unstack" + (f":{place}" if place else "")
        value = writer.const(f"Postprocessor/weight_{place}", float(weight))
        writer.op("RealDiv", f"Postprocessor/truediv_{place}", [part, value], T=FLOAT)
    limits = [
        writer.const("NonMaxSuppression/max", 50),
        writer.const("NonMaxSuppression/iou", 0.55),
        writer.const("NonMaxSuppression/score", 0.25),
    ]
    scores = writer.const("NonMaxSuppression/scores", [0.5])
    writer.op("NonMaxSuppressionV3", "NonMaxSuppression", ["Postprocessor/Reshape", scores, *limits])


def _compute_anchors(writer: GraphWriter, name: str, cell: Sequence[tuple[float, float]]) -> None:
    """Adds the API's arithmetic: a height is a scale divided by the root of an aspect ratio, a width their product."""
    ratios = np.array([width / height for width, height in cell], dtype=np.float32)
    scales = np.array([np.sqrt(width * height) for width, height in cell], dtype=np.float32)
    root = writer.op("Sqrt", f"{name}/Sqrt", [writer.const(f"{name}/ratios", ratios)], T=FLOAT)
    writer.op("RealDiv", f"{name}/truediv", [writer.const(f"{name}/scales", scales), root], T=FLOAT)
    writer.op("Mul", f"{name}/mul", [writer.const(f"{name}/scales_1", scales), root], T=FLOAT)
