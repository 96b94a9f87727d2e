"""The report's section on memory (Section 5.1): M(G) of every network, split blocks, bands of rows."""

from functools import partial

from mbv2kit.analysis.contractions import fold_norms, in_place_activations
from mbv2kit.analysis.memory import peak_memory
from mbv2kit.lab.paper import blocks
from mbv2kit.lab.paper.architecture import MOBILENET_V2
from mbv2kit.lab.paper.cases import CASES, build, graph_of
from mbv2kit.lab.paper.report_numbers import ReportData, numbers_table
from mbv2kit.lab.paper.report_split import split_network
from mbv2kit.lab.report_page import Section, Table

KIB = 1024
# Values of t; the last splits the widest expansion into single channels.
PARTS = (1, 2, 3, 4, 5, 10, 960)
FRONTS: tuple[tuple[blocks.ImageKept, int, int, int], ...] = (
    ("fp32", 1, 4, 7),
    ("fp32", 1, 4, 14),
    ("fp32", 4, 2, 7),
    ("fp32", 4, 4, 7),
    ("fp32", 4, 4, 14),
    ("uint8", 4, 4, 14),
    ("uint8", 4, 4, 28),
    ("streamed", 4, 4, 14),
)
# Tables whose networks are listed; MF counts with its pass at scale 1.
TABLES = ("table4", "table6", "table7")


def memory(data: ReportData) -> Section:
    """Section 5.1: memory."""
    return Section(
        data.tables["memory"].title,
        [
            "M(G) is the smallest peak memory over all orders of the operations, where memory holds the inputs and "
            "outputs of the running operation and everything that is read later. Numbers are KiB of 32-bit floats for "
            "one image, including the image itself in bytes. Weights and the workspace of convolutions do not count.",
            networks(data),
            parts(),
            bands(),
            *split_network(data),
            numbers_table(data, "memory"),
        ],
    )


def networks(data: ReportData) -> Table:
    """Returns M(G) of every network in Tables 4, 6 and 7, as trained and as deployed."""
    rows = []
    for table in TABLES:
        for row, label in data.tables[table].rows.items():
            case = CASES[f"{table}/{row}"]
            graph = graph_of(case.network, case.size)
            deployed = in_place_activations(fold_norms(graph))
            rows.append(
                [
                    table.replace("table", "Table "),
                    label,
                    f"{case.size[0]} x {case.size[1]}",
                    *(_kib(peak_memory(each).peak) for each in (graph, deployed)),
                    _kib(case.count("params") * blocks.FLOAT_BYTES),
                ]
            )
    columns = ["", "network", ">input", ">M(G), as trained", ">M(G), deployed", ">weights"]
    note = (
        "As trained: batch norms are separate operations. Deployed: batch norms are folded into the convolutions, and "
        "activations and additions overwrite their inputs. MF counts with its pass at scale 1."
    )
    return Table(columns=columns, rows=rows, title="M(G) of the networks, KiB", notes=[note])


def parts() -> Table:
    """Returns MobileNetV2's peak with every block split into t parts, and the paper's bound."""
    layers = blocks.backbone_layers(build(MOBILENET_V2.network), MOBILENET_V2.size)
    fused = blocks.fuse_stem(layers)
    kinds = (
        ("split", layers, blocks.split_peak),
        ("split, first convolution fused into the first block", fused, blocks.split_peak),
        ("the paper's bound", layers, blocks.bottleneck_bound),
        ("the paper's bound, first convolution fused", fused, blocks.bottleneck_bound),
    )
    rows = [
        [name, *(_kib(blocks.network_peak(layers, partial(peak, parts=count))) for count in PARTS)]
        for name, layers, peak in kinds
    ]
    note = (
        "A block in t parts holds its input, its output and a slice of n / t channels of each wide map; t = 1 is not "
        "split. The paper's bound counts only the larger of the two slices. For large t the first block sets the "
        "peak, unless the first convolution runs as its expansion."
    )
    columns = ["MobileNetV2 at 224, KiB", *(f">t = {count}" for count in PARTS[:-1]), ">t = n"]
    return Table(columns=columns, rows=rows, title="Blocks split into t parts", notes=[note])


def bands() -> Table:
    """Returns MobileNetV2's peak with all blocks split and the first ones run in bands of rows, and the extra work."""
    layers = blocks.backbone_layers(build(MOBILENET_V2.network), MOBILENET_V2.size)
    madds = MOBILENET_V2.count("madds")
    rows = []
    for image, count, front, number in FRONTS:
        peak = blocks.banded_peak(layers, blocks=front, bands=number, parts=count, image=image)
        cells = [image, str(count), str(front), str(number), _kib(peak.bytes), f"{peak.extra_madds / madds:.1%}"]
        rows.append(cells)
    columns = ["image held as", ">t", ">blocks in bands", ">bands", ">peak, KiB", ">extra multiply-adds"]
    note = "Not in the paper. The extra multiply-adds are for rows at the border of two bands, computed twice."
    return Table(
        columns=columns, rows=rows, title="The first blocks in bands of rows, MobileNetV2 at 224", notes=[note]
    )


def _kib(size: float) -> str:
    return f"{size / KIB:,.0f}"
