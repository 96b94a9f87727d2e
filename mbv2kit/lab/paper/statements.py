"""Numbers of the paper's text and small tables, computed from mbv2kit's networks."""

from collections.abc import Callable, Mapping
from functools import cache, partial

from mbv2kit.analysis.graph import META
from mbv2kit.heads.deeplab_v3 import DeepLabV3
from mbv2kit.lab.paper import architecture, table3
from mbv2kit.lab.paper.cases import CASES, FIGURE_5, build, cost_of
from mbv2kit.lab.paper.figures import MADDS_LIMITS, TOP1_LIMITS
from mbv2kit.lab.paper.manifold import DIMENSIONS, spiral
from mbv2kit.lab.paper.published import Value
from mbv2kit.models.tta import SCALES
from mbv2kit.nn.layers import ConvNormAct, ConvStyle, InvertedResidual

# Channels of the narrowest and the widest separable convolution in Table 1 of the MobileNetV1 paper.
SEPARABLE_OUTPUTS = (64, 1024)
TABLE_2_ROWS = 11
TABLE_3_SIDES = (112, 56, 28, 14, 7, 1)
TABLE_3_NETWORKS = ("mobilenet_v1", "mobilenet_v2", "shufflenet")


def _kernel_size() -> int:
    return _block("layer_3").depthwise.conv.kernel_size[0]


def _expansion() -> int:
    expand = _block("layer_3").expand
    assert isinstance(expand, ConvNormAct)
    return expand.conv.out_channels // expand.conv.in_channels


def _expanded_example() -> int:
    """Channels in the middle of a block from 64 to 128 channels (Section 4)."""
    with META:
        return InvertedResidual(64, 128, expansion=_expansion(), style=ConvStyle()).depthwise.conv.in_channels


def _separable_saving() -> Value:
    """Multiply-adds of a full convolution over those of a separable one: k^2 d / (k^2 + d), eq. (1)."""
    square = _kernel_size() ** 2
    return tuple(square * outputs / (square + outputs) for outputs in SEPARABLE_OUTPUTS)


def _table_2_row(number: int) -> Value:
    return architecture.rows()[number - 1]


def _bottlenecks() -> list[architecture.Layer]:
    return [layer for layer in architecture.layers() if layer.operator == "bottleneck"]


def _weighted_layers() -> int:
    case = architecture.MOBILENET_V2
    return sum(layer.madds > 0 for layer in cost_of(case.network, case.size).layers)


@cache
def _table_3() -> Mapping[str, table3.Column]:
    return table3.paper_columns()


def _table_3_cell(network: str, side: int, measure: str) -> Value:
    cell = _table_3()[network].cells[side]
    return cell.channels if measure == "channels" else cell.kilobytes


def _table_3_maximum(network: str) -> float:
    return _table_3()[network].maximum.kilobytes


def _table_3_earlier_maximum(network: str) -> float:
    """The last row in an earlier version of the paper, where the row for 112 x 112 is empty."""
    cells = _table_3()[network].cells
    return max(cell.kilobytes for side, cell in cells.items() if side < 112)


def _sides() -> list[int]:
    return sorted({side for sides in FIGURE_5.values() for side in sides})


def _times_yolo(kind: str) -> float:
    """Parameters or multiply-adds of YOLOv2 over those of MobileNetV2 with SSDLite (Section 6.2)."""
    yolo = CASES.get(f"table6/yolo_v2/{kind}", CASES["table6/yolo_v2"])
    ours = CASES["table6/mobilenet_v2_ssdlite"]
    return yolo.count("madds") / ours.count("madds") if kind == "madds" else yolo.count("params") / ours.count("params")


def _deeplab_madds(backbone: str) -> tuple[float, float]:
    """Multiply-adds with ASPP, of one pass at output stride 16 and of all passes at 8 (Section 6.3)."""
    one, many = (CASES[f"table7/{backbone}_{row}"].count("madds_s2b") for row in ("os16_aspp", "os8_aspp_mf"))
    return one, many


def _times_resnet() -> Value:
    resnet, v1 = _deeplab_madds("resnet_101"), _deeplab_madds("mobilenet_v1")
    return tuple(sorted(larger / smaller for larger, smaller in zip(resnet, v1, strict=True)))


def _times_v1() -> float:
    return _deeplab_madds("mobilenet_v1")[0] / _deeplab_madds("mobilenet_v2")[0]


def _deeplab_head(row: str = "os16_aspp") -> DeepLabV3:
    head = build(CASES[f"table7/mobilenet_v2_{row}"].network).heads["segmentation"]
    assert isinstance(head, DeepLabV3)
    return head


def _output_strides() -> Value:
    """Output strides of the rows of Table 7, in order."""
    networks = (case.network for row, case in CASES.items() if row.startswith("table7/"))
    return tuple(dict.fromkeys(dict(network.backbone_options)["output_stride"] for network in networks))


def _rates(row: str) -> Value:
    _, *atrous = _deeplab_head(row).branches
    return tuple(branch.conv.dilation[0] for branch in atrous if isinstance(branch, ConvNormAct))


def _block(name: str) -> InvertedResidual:
    block = build(architecture.MOBILENET_V2.network).backbone.layers[name]
    assert isinstance(block, InvertedResidual)
    return block


# mbv2kit's value of each number in the text, by id.
STATEMENTS: Mapping[str, Callable[[], Value]] = {
    "figure1/input_dimensions": lambda: spiral().shape[1],
    "figure1/output_dimensions": lambda: DIMENSIONS,
    "table1/kernel_size": _kernel_size,
    "table1/expansion": _expansion,
    "table1/example_expanded": _expanded_example,
    "table1/separable_saving": _separable_saving,
    "table1/madds_of_17_blocks": lambda: sum(layer.madds for layer in _bottlenecks()),
    **{f"table2/row_{number}": partial(_table_2_row, number) for number in range(1, TABLE_2_ROWS + 1)},
    "table2/first_conv_filters": lambda: _block("layer_2").depthwise.conv.in_channels,
    "table2/bottlenecks_in_text": lambda: len(_bottlenecks()),
    "table2/conv_and_linear_layers": _weighted_layers,
    **{
        f"table3/{side}/{network}_{measure}": partial(_table_3_cell, network, side, measure)
        for side in TABLE_3_SIDES
        for network in TABLE_3_NETWORKS
        for measure in ("channels", "kb")
    },
    **{f"table3/max/{network}_kb": partial(_table_3_maximum, network) for network in TABLE_3_NETWORKS},
    **{f"table3/max_earlier/{network}_kb": partial(_table_3_earlier_maximum, network) for network in TABLE_3_NETWORKS},
    "section4/resolutions": lambda: (_sides()[0], _sides()[-1]),
    "section4/multipliers": lambda: (min(FIGURE_5), max(FIGURE_5)),
    "figure5/axis_madds": lambda: MADDS_LIMITS,
    "figure5/axis_top1": lambda: TOP1_LIMITS,
    "table6/input": lambda: CASES["table6/mobilenet_v2_ssdlite"].size[0],
    "table6/times_less_compute_than_yolo_v2": partial(_times_yolo, "madds"),
    "table6/times_smaller_than_yolo_v2": partial(_times_yolo, "params"),
    "table7/image_size": lambda: CASES["table7/mobilenet_v2_os16"].size[0],
    "table7/mf_scales": lambda: SCALES,
    "table7/output_stride": _output_strides,
    "table7/head_channels": lambda: _deeplab_head().join.conv.out_channels,
    "table7/rates_at_16": partial(_rates, "os16_aspp"),
    "table7/rates_at_8": partial(_rates, "os8_aspp_mf"),
    "table7/v1_times_fewer_than_resnet_101": _times_resnet,
    "table7/v2_times_fewer_than_v1": _times_v1,
    "figure7/threshold": lambda: 1 / _expansion(),
}
