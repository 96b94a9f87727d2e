"""Writes SSD and SSDLite as the TFLite files that TensorFlow's Object Detection API exports."""

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from numpy.typing import NDArray
from torch import nn

from mbv2kit.heads.ssd import SSD
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import ConvNormAct
from tests.weights.tflite_writer import Form, TFLiteWriter, write_backbone

# Where each number of a code of ours stands in the API's: y, x, height, width.
CODE_ORDER = [1, 0, 3, 2]


def write_detector(model: VisionModel, size: int, form: Form = "float32", *, postprocess: bool = False) -> bytes:
    """Returns the TFLite file of a detector.

    Args:
        model: SSD or SSDLite on MobileNetV1 or MobileNetV2.
        size: Side of the input.
        form: How weights are stored.
        postprocess: Whether the file decodes boxes and suppresses duplicates; otherwise it returns codes and logits.
    """
    writer = TFLiteWriter(size, form)
    maps = write_backbone(writer, model)
    head = model.heads["detection"]
    assert isinstance(head, SSD)
    sources = [maps[name] for name in head.features]
    for place, extra in enumerate(head.extras):
        current = sources[-1]
        for part, block in enumerate(block for block in extra.modules() if isinstance(block, ConvNormAct)):
            current = writer.convolution(current, f"extra_{place}/{part}", block)
        sources.append(current)
    rows, columns = [], []
    for place, source in enumerate(sources):
        rows.append(_predict(writer, source, f"BoxPredictor_{place}/BoxEncoding", head.regressors[place], 4))
        columns.append(
            _predict(writer, source, f"BoxPredictor_{place}/Class", head.classifiers[place], head.num_classes + 1)
        )
    codes, logits = _join(writer, "raw/box_encodings", rows), _join(writer, "raw/class_predictions", columns)
    if not postprocess:
        return writer.finish(codes, logits)
    shape = tuple(writer.tensors[logits].shape)
    scores = writer.operator("LOGISTIC", [logits], writer.tensor("scores", shape))
    with torch.inference_mode():
        corners = model(torch.zeros(1, 3, size, size, dtype=torch.uint8))["detection"]["anchors"].numpy()
    centers, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    anchors = np.concatenate([centers[:, ::-1], sides[:, ::-1]], axis=1).astype(np.float32)
    assert head.nms_options is not None
    count = head.nms_options.max_detections
    shapes = ((1, count, 4), (1, count), (1, count), (1,))
    outputs = [writer.tensor(f"detection:{place}", each) for place, each in enumerate(shapes)]
    writer.custom(
        "TFLite_Detection_PostProcess",
        [codes, scores, writer.tensor("anchors", anchors.shape, anchors)],
        outputs,
        _options(head),
    )
    return writer.finish(*outputs)


def _options(head: SSD) -> bytes:
    nms = head.nms_options
    assert nms is not None
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("max_detections", nms.max_detections)
        builder.Int("max_classes_per_detection", 1)
        builder.Int("detections_per_class", nms.max_detections)
        builder.Bool("use_regular_nms", True)
        builder.Float("nms_score_threshold", nms.score_threshold)
        builder.Float("nms_iou_threshold", nms.nms_iou)
        builder.Int("num_classes", head.num_classes)
        for side, scale in zip("yxhw", (10.0, 10.0, 5.0, 5.0), strict=True):
            builder.Float(f"{side}_scale", scale)
    return bytes(builder.Finish())


def _predict(writer: TFLiteWriter, source: int, name: str, predictor: nn.Module, values: int) -> int:
    conv = predictor
    if isinstance(predictor, nn.Sequential):
        depthwise, conv = predictor.children()
        assert isinstance(depthwise, ConvNormAct)
        source = writer.convolution(source, f"{name}/depthwise", depthwise)
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    order = np.arange(conv.out_channels)
    if name.endswith("BoxEncoding"):
        order = order.reshape(-1, 4)[:, CODE_ORDER].ravel()
    weight, bias = (tensor.detach().numpy()[order] for tensor in (conv.weight, conv.bias))
    output = writer.layer(source, name, conv, weight, bias)
    side, channels = writer.sizes[output]
    shape: NDArray[np.int32] = np.array([1, side * side * channels // values, values], dtype=np.int32)
    options = schema.ReshapeOptionsT()
    options.newShape = shape.tolist()
    flat = writer.tensor(f"{name}/flat", tuple(shape.tolist()))
    return writer.operator("RESHAPE", [output, writer.tensor(f"{name}/shape", (3,), shape)], flat, options)


def _join(writer: TFLiteWriter, name: str, parts: list[int]) -> int:
    count = sum(writer.tensors[part].shape[1] for part in parts)
    output = writer.tensor(name, (1, count, writer.tensors[parts[0]].shape[2]))
    options = schema.ConcatenationOptionsT()
    options.axis = 1
    return writer.operator("CONCATENATION", parts, output, options)
