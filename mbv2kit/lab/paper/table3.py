"""Table 3: the largest tensor at each resolution, as the paper counts it and as it really is.

Activations have 16 bits, for one image of 224 x 224 pixels. A cell is a single tensor and no peak, for which inputs and
outputs are held at once (:mod:`mbv2kit.analysis.memory`, :mod:`mbv2kit.lab.paper.blocks`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mbv2kit.analysis.graph import META
from mbv2kit.backbones import create_backbone
from mbv2kit.backbones.registry import Backbone
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import InvertedResidual

INPUT_SIDE = 224
BYTES = 2


@dataclass(frozen=True, slots=True)
class Cell:
    """A square tensor.

    Attributes:
        side: Height and width.
        channels: Number of channels.
    """

    side: int
    channels: int

    @property
    def bytes(self) -> int:
        """Size at 16 bits per value."""
        return self.channels * self.side * self.side * BYTES

    @property
    def kilobytes(self) -> float:
        """Size in the table's Kb of 1000 bytes."""
        return self.bytes / 1000


@dataclass(frozen=True, slots=True)
class Column:
    """The column of one network.

    Attributes:
        cells: Cells by resolution: 112, 56, 28, 14, 7 and 1.
        maximum: Cell of the last row.
    """

    cells: Mapping[int, Cell]
    maximum: Cell


def paper_columns() -> dict[str, Column]:
    """Returns the columns ``mobilenet_v1``, ``mobilenet_v2`` and ``shufflenet``, counted so that the numbers agree.

    For MobileNetV2 a cell is the widest bottleneck whose block's *input* has the resolution, as in the rows of Table 2;
    at 112 it is the first block's output, with the preceding convolution fused in. ShuffleNet 2x has two groups, though
    its heading says three, and its maximum excludes the first convolution, whose 48 channels are printed as 32.
    """
    shufflenet = _widest(_shufflenet(groups=2).feature_info)
    return {
        "mobilenet_v1": _column(_widest(_backbone("mobilenet_v1").feature_info)),
        "mobilenet_v2": _column(_by_input_of_block(_backbone("mobilenet_v2"))),
        "shufflenet": Column(shufflenet, _largest(cell for side, cell in shufflenet.items() if side < 112)),
    }


def corrected_columns() -> dict[str, Column]:
    """Returns the same columns with the tensors of the real networks.

    For MobileNetV2 only bottlenecks count, because split blocks never hold a whole expansion (Section 5.1). ShuffleNet
    2x has three groups.
    """
    mobilenet_v2 = _backbone("mobilenet_v2")
    return {
        "mobilenet_v1": _column(_widest(_backbone("mobilenet_v1").feature_info)),
        "mobilenet_v2": _column({**_widest(_bottlenecks(mobilenet_v2)), 1: _pooled(mobilenet_v2)}),
        "shufflenet": _column(_widest(_shufflenet(groups=3).feature_info)),
    }


def _backbone(name: str, **options: Any) -> Backbone:
    with META:
        return create_backbone(name, **options)


def _shufflenet(groups: int) -> Backbone:
    return _backbone("shufflenet_v1", width=2.0, groups=groups)


def _column(cells: Mapping[int, Cell]) -> Column:
    return Column(cells, _largest(cells.values()))


def _largest(cells: Iterable[Cell]) -> Cell:
    return max(cells, key=lambda cell: cell.bytes)


def _widest(features: Iterable[FeatureInfo]) -> dict[int, Cell]:
    """Returns the map with the most channels for each resolution, and the pooled last map for 1 x 1."""
    cells: dict[int, Cell] = {}
    for feature in features:
        side = INPUT_SIDE // feature.stride
        _offer(cells, Cell(side, feature.channels))
        cells[1] = Cell(1, feature.channels)
    return cells


def _by_input_of_block(backbone: Backbone) -> dict[int, Cell]:
    bottlenecks = _bottlenecks(backbone)
    cells = {112: Cell(112, bottlenecks[0].channels), 1: _pooled(backbone)}
    for before, after in pairwise(bottlenecks):
        side = INPUT_SIDE // before.stride
        if side < 112:
            _offer(cells, Cell(side, after.channels))
    return cells


def _offer(cells: dict[int, Cell], cell: Cell) -> None:
    if cell.side not in cells or cells[cell.side].channels < cell.channels:
        cells[cell.side] = cell


def _bottlenecks(backbone: Backbone) -> list[FeatureInfo]:
    blocks = {name for name, layer in backbone.layers.items() if isinstance(layer, InvertedResidual)}
    return [feature for feature in backbone.feature_info if feature.name in blocks]


def _pooled(backbone: Backbone) -> Cell:
    return Cell(1, backbone.feature_info[-1].channels)
