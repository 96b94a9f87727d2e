"""Finds what the Object Detection API's graph of a detector says about its predictions: anchors, codes, scores, NMS."""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv2kit.weights.graphdef import GraphFile
from mbv2kit.weights.layer_recorder import LayerRecorder
from mbv2kit.weights.network_graph import Floats, Predictions

_LEAST_MAPS = 3
_LEAST_ANCHORS = 100
_NMS = ("NonMaxSuppressionV2", "NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5")


def find_predictions(file: GraphFile, found: LayerRecorder) -> Predictions | None:
    """Returns what a graph says about its predictions; None if it is no detector.

    Args:
        file: The graph.
        found: Its layers.
    """
    read = {layer.source for layer in found.layers}
    joins = {trace.joined: None for trace in found.traces.values() if len(trace.joined) >= _LEAST_MAPS}
    ends = [layers for layers in joins if not read.intersection(layers)]
    scored = {trace.joined: trace.scores for trace in found.traces.values() if trace.scores is not None}
    for first, second in combinations(ends, 2):
        boxes, scores = (second, first) if first in scored or _is_boxes(found, second) else (first, second)
        if len(boxes) == len(scores) and (columns := _columns(found, boxes, scores)) is not None:
            return Predictions(
                boxes=boxes,
                scores=scores,
                columns=columns,
                anchors=_anchors(file),
                cells=_cells(file, len(boxes)),
                code_weights=_code_weights(file, found, boxes),
                score_function=scored.get(scores),
                nms=_nms(file),
            )
    return None


def _is_boxes(found: LayerRecorder, layers: tuple[int, ...]) -> bool:
    return all("box" in found.layers[layer].name.rpartition("/")[0].rpartition("/")[2].lower() for layer in layers)


def _columns(found: LayerRecorder, boxes: tuple[int, ...], scores: tuple[int, ...]) -> int | None:
    """Returns the number of logits of an anchor; None if it is not the same on all maps."""
    counts = set()
    for box, score in zip(boxes, scores, strict=True):
        codes, logits = len(found.layers[box].bias), len(found.layers[score].bias)
        if codes % 4 or logits % (codes // 4):
            return None
        counts.add(logits // (codes // 4))
    return counts.pop() if len(counts) == 1 and min(counts) >= 2 else None


def _anchors(file: GraphFile) -> Floats | None:
    """Returns the anchors where the file holds them as numbers: rows of y1, x1, y2, x2."""
    for value in file.constants.values():
        if value.dtype == np.float32 and value.ndim == 2 and value.shape[1] == 4 and len(value) > _LEAST_ANCHORS:
            return np.ascontiguousarray(value[:, [1, 0, 3, 2]])
    return None


def _cells(file: GraphFile, maps: int) -> list[list[tuple[float, float]]] | None:
    """Returns the (width, height) of each map's anchors, which the API computes from scales and aspect ratios.

    A height is a scale divided by the root of an aspect ratio, and a width their product.
    """
    nodes = {node.name: node for node in file.nodes}
    cells = []
    for node in file.nodes:
        if node.op != "RealDiv" or len(node.inputs) != 2 or node.name not in file.constants:
            continue
        scales, root = (nodes[name.partition(":")[0]] for name in node.inputs)
        if root.op == "Sqrt" and file.constants[scales.name].ndim == 1:
            heights, roots = (file.constants[name] for name in (node.name, root.name))
            if heights.shape == roots.shape:
                cells.append([(float(h * r * r), float(h)) for h, r in zip(heights, roots, strict=True)])
    return cells if len(cells) == maps else None


def _code_weights(file: GraphFile, found: LayerRecorder, boxes: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Returns by how much the y, x, height and width of a code are divided as they are decoded."""
    nodes = {node.name: node for node in file.nodes}
    weights = [10.0, 10.0, 5.0, 5.0]
    for node in file.nodes:
        if node.op != "RealDiv" or len(node.inputs) != 2 or node.inputs[1] not in file.constants:
            continue
        unpacked, _, place = node.inputs[0].partition(":")
        value = file.constants[node.inputs[1]]
        trace = found.traces.get(unpacked)
        if trace is not None and trace.joined == boxes and nodes[unpacked].op == "Unpack" and value.size == 1:
            weights[int(place or 0)] = float(value.ravel()[0])
    y, x, height, width = weights
    return y, x, height, width


def _nms(file: GraphFile) -> dict[str, Any]:
    """Returns the options of the suppression; nothing if the graph has none."""
    node = next((node for node in file.nodes if node.op in _NMS), None)
    if node is None:
        return {}
    iou, *threshold = (file.constants.get(name) for name in node.inputs[3:5])
    options: dict[str, Any] = {}
    if iou is not None:
        options["nms_iou"] = _number(iou)
    if threshold and threshold[0] is not None:
        options["score_threshold"] = max(0.0, _number(threshold[0]))
    scope = node.name.partition("NonMaxSuppression")[0].rpartition("/")[0]
    minima = [other.inputs for other in file.nodes if other.op == "Minimum" and other.name.startswith(scope)]
    limits = [
        int(file.constants[name])
        for names in (node.inputs[2:3], *minima)
        for name in names
        if name in file.constants and file.constants[name].dtype == np.int32 and file.constants[name].ndim == 0
    ]
    if limits:
        # The last one limits the boxes of all classes together.
        options["max_detections"] = limits[-1]
    return options


def _number(value: NDArray[Any]) -> float:
    return round(float(value.ravel()[0]), 6)
