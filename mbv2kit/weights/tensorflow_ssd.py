"""Recognizes SSD and SSDLite as TensorFlow's Object Detection API builds them on MobileNets.

The API's ``ssd_mobilenet_v1_feature_extractor.py`` and ``ssd_mobilenet_v2_feature_extractor.py`` say which maps a
detector reads, ``convolutional_box_predictor.py`` how it predicts, ``multiple_grid_anchor_generator.py`` which anchors
it has, and ``faster_rcnn_box_coder.py`` in which order a code stands: y, x, height, width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbv2kit.errors import UserError
from mbv2kit.heads.multibox import Scores
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.nn import boxes as bx
from mbv2kit.weights.class_names import detection_classes, find_labels
from mbv2kit.weights.network_graph import IMAGE, Floats, Layer, NetworkGraph, Predictions
from mbv2kit.weights.published import PublishedHead
from mbv2kit.weights.tensorflow_layers import conv_norm_tensors, norm_eps, plain_tensors

# The pixels that a detector of the API takes, where its file takes any.
DETECTOR_SIZE = (300, 300)
# The API's converter of scores, where a file ends before.
USUAL_SCORES: Scores = "sigmoid"
NORM_EPS = 1e-3
# Scales of the first and the last map's anchors in the API's configurations.
USUAL_SCALES = (0.2, 0.95)
# Anchors are float32 in a file.
_ROUNDING = 1e-4
# The order of a code in the API, as places of ours: y, x, height, width.
_ORDER = [1, 0, 3, 2]
_NAME = "heads.detection"


@dataclass(frozen=True, slots=True)
class _Branch:
    """The layers that predict boxes, or scores, on one map."""

    last: Layer
    depthwise: Layer | None
    source: int


def trunk(graph: NetworkGraph) -> list[int]:
    """Returns the positions of all layers that do not belong to a detector's predictions."""
    found = graph.predictions
    if found is None:
        return list(range(len(graph.layers)))
    ends = {*found.boxes, *found.scores}
    before = {graph.layers[end].source for end in ends if _branch(graph, end).depthwise is not None}
    return [position for position in range(len(graph.layers)) if position not in ends | before]


def read_ssd(
    graph: NetworkGraph,
    found: Predictions,
    backbone: Mapping[str, int],
    extras: Sequence[int],
    labels: Sequence[tuple[str, ...]],
) -> PublishedHead:
    """Turns the layers behind a backbone into a head.

    Args:
        graph: The network.
        found: Its predictions.
        backbone: Positions of the backbone's layers by name.
        extras: Positions of the layers of the further maps.
        labels: Lists of class names that come with the file.

    Raises:
        UserError: The layers are not those of SSD or SSDLite, or the anchors do not fit.
    """
    boxes, scores = ([_branch(graph, end) for end in ends] for ends in (found.boxes, found.scores))
    if [branch.source for branch in boxes] != [branch.source for branch in scores]:
        raise UserError("its boxes and scores come from different maps, unlike those of SSD.")
    separable = scores[0].depthwise is not None
    maps, further = _maps(graph, backbone, extras, [branch.source for branch in boxes], 3 if separable else 2)
    counts = [len(branch.last.bias) // 4 for branch in boxes]
    if any(len(branch.last.bias) != count * found.columns for branch, count in zip(scores, counts, strict=True)):
        raise UserError(f"its maps do not score {found.columns} classes for each box, as those of SSD do.")
    names, columns = _classes(found, labels)
    size = graph.input_size or DETECTOR_SIZE
    depthwise = [branch.depthwise for branch in (*boxes, *scores) if branch.depthwise is not None]
    eps = norm_eps([*(graph.layers[position] for position in extras), *depthwise], NORM_EPS)
    tensors: dict[str, Tensor] = {}
    for place, group in enumerate(further):
        parts = ("0", "1.depthwise", "1.pointwise") if separable else ("0", "1")
        for part, position in zip(parts, group, strict=True):
            tensors |= conv_norm_tensors(f"{_NAME}.extras.{place}.{part}", graph.layers[position], eps)
    weights = [ours / theirs for ours, theirs in zip(bx.CODE_WEIGHTS, found.code_weights, strict=True)]
    for place, (box, score, count) in enumerate(zip(boxes, scores, counts, strict=True)):
        tensors |= _branch_tensors(f"{_NAME}.regressors.{place}", box, eps, count, _ORDER, weights)
        tensors |= _branch_tensors(f"{_NAME}.classifiers.{place}", score, eps, count, (0, *columns))
    return PublishedHead(
        task="detection",
        options={
            "name": "ssdlite" if separable else "ssd",
            "scores": found.score_function or USUAL_SCORES,
            "maps": maps,
            "extra_channels": [len(graph.layers[group[-1]].bias) for group in further],
            "anchors": _anchors(graph, found, counts, size, [branch.source for branch in boxes]),
            "kernel": (scores[0].depthwise or scores[0].last).weight.shape[2],
            "norm_eps": eps,
            "padding": "tf_same",
            **found.nms,
        },
        class_names=names,
        background=True,
        input=Preprocess(size, "stretch", interpolation="tf1" if graph.old_resizing else "smooth"),
        tensors=tensors,
    )


def _branch(graph: NetworkGraph, end: int) -> _Branch:
    last = graph.layers[end]
    before = None if last.source == IMAGE else graph.layers[last.source]
    if before is not None and before.kind == "depthwise" and last.weight.shape[2:] == (1, 1):
        return _Branch(last, before, before.source)
    return _Branch(last, None, last.source)


def _maps(
    graph: NetworkGraph, backbone: Mapping[str, int], extras: Sequence[int], sources: Sequence[int], steps: int
) -> tuple[list[str], list[Sequence[int]]]:
    """Returns the names of the backbone's maps that are read, and the positions of each further map's layers."""
    names = {position: name for name, position in backbone.items()}
    maps = [_map_name(names[source]) for source in sources if source in names]
    groups = [extras[start : start + steps] for start in range(0, len(extras), steps)]
    last = [backbone[name] for name in backbone][-1]
    for group in groups:
        chain = [last, *group]
        if any(graph.layers[after].source != before for before, after in zip(chain, group, strict=False)):
            raise UserError(f"its layer '{graph.layers[group[0]].name}' does not read the map before it, as in SSD.")
        last = group[-1]
    if [source for source in sources if source not in names] != [group[-1] for group in groups]:
        raise UserError("its boxes and scores do not come from the maps of SSD, each once and the finest first.")
    return maps, groups


def _map_name(layer: str) -> str:
    """``layer_15.expand -> layer_15_expansion``; the output of any other layer is the map of its block."""
    block, _, part = layer.partition(".")
    return f"{block}_expansion" if part == "expand" else block


def _classes(found: Predictions, labels: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns the names of the classes, and the columns of their scores."""
    count = found.columns - 1
    named = find_labels(labels, count)
    if named is None and (with_background := find_labels(labels, found.columns)) is not None:
        named = with_background[1:]
    if named is not None:
        return named, tuple(range(1, found.columns))
    return detection_classes(found.columns)


def _branch_tensors(
    name: str,
    branch: _Branch,
    eps: float,
    count: int,
    rows: Sequence[int],
    factors: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Returns the tensors of a branch, with the rows of each of its ``count`` anchors in another order."""
    ends = plain_tensors(name if branch.depthwise is None else f"{name}.1", branch.last)
    scale = torch.ones(len(rows)) if factors is None else torch.tensor(factors, dtype=torch.float32)[rows]
    for key, tensor in ends.items():
        groups = tensor.reshape(count, -1, *tensor.shape[1:])[:, rows]
        ends[key] = (groups * scale.reshape(1, -1, *[1] * (tensor.ndim - 1))).flatten(0, 1)
    if branch.depthwise is None:
        return ends
    return ends | conv_norm_tensors(f"{name}.0", branch.depthwise, eps)


def _anchors(
    graph: NetworkGraph, found: Predictions, counts: Sequence[int], size: tuple[int, int], sources: Sequence[int]
) -> Any:
    """Returns the preset of the anchors, or the (width, height) of a cell's anchors for each map.

    Raises:
        UserError: The anchors lie on no grid, or the file holds none and the API's usual ones do not fit.
    """
    grids = [_grid(graph, source, size) for source in sources]
    cells, rounding = found.cells, _ROUNDING + found.fuzzy_anchors
    if found.anchors is not None:
        cells = _first_cells(found.anchors, grids, counts, size)
        placed = bx.make_anchors(grids, cells, size)
        if not torch.allclose(placed, torch.from_numpy(found.anchors), rtol=0, atol=2 * rounding):
            raise UserError("its anchors do not lie around the centers of its maps' cells, as those of SSD do.")
    for preset in bx.ANCHOR_PRESETS:
        usual = bx.anchor_shapes(len(counts), preset, *USUAL_SCALES)
        if [len(cell) for cell in usual] == list(counts) and (cells is None or _close(cells, usual, rounding)):
            return preset
    if cells is None:
        raise UserError(
            f"its maps predict {', '.join(map(str, counts))} boxes in a cell, which the API's usual anchors do not "
            "fit, and the file does not hold its own."
        )
    return cells


def _grid(graph: NetworkGraph, source: int, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the height and width of a map; every stride rounds up."""
    strides = []
    while source != IMAGE:
        strides.append(graph.layers[source].stride)
        source = graph.layers[source].source
    height, width = size
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
    return height, width


def _first_cells(
    anchors: Floats, grids: Sequence[tuple[int, int]], counts: Sequence[int], size: tuple[int, int]
) -> list[list[tuple[float, float]]]:
    """Returns the (width, height) of the anchors in the first cell of each map, as fractions of the short side."""
    total = sum(rows * columns * count for (rows, columns), count in zip(grids, counts, strict=True))
    if total != len(anchors):
        raise UserError(f"it holds {len(anchors)} anchors, but its maps predict {total} boxes.")
    units = np.array([size[1], size[0]]) / min(size)
    cells, start = [], 0
    for (rows, columns), count in zip(grids, counts, strict=True):
        first = anchors[start : start + count]
        cells.append([(float(width), float(height)) for width, height in (first[:, 2:] - first[:, :2]) * units])
        start += rows * columns * count
    return cells


def _close(
    cells: Sequence[Sequence[tuple[float, float]]], usual: Sequence[Sequence[tuple[float, float]]], rounding: float
) -> bool:
    return all(
        len(cell) == len(other) and np.allclose(cell, other, rtol=0, atol=rounding)
        for cell, other in zip(cells, usual, strict=True)
    )
