"""Compares mbv2kit's counts with every published number and with the counts recorded with the reference data."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mbv2kit.lab.paper.cases import CASES, detector
from mbv2kit.lab.paper.comparison import Comparison, Verdict, has_digits_of, ours_of
from mbv2kit.lab.paper.published import load

NUMBERS = {number: value for table in load().values() for number, value in table.numbers.items()}
RECORDED = Path(os.environ.get("MBV2KIT_SHARED", Path(__file__).parents[4] / "shared")) / "paper" / "tables.yaml"

# Names of recorded tables, rows and columns -> names in published.yaml.
TABLES = {
    "block": "table1",
    "formulas": "table1",
    "table2_architecture": "table2",
    "table3_memory": "table3",
    "table4_imagenet": "table4",
    "figure5_points": "figure5",
    "figure5_mobilenet_v1_points": "figure5_v1",
    "table5_ssdlite": "table5",
    "table6_coco": "table6",
    "table7_voc": "table7",
    "deeplab_zoo_extra": "deeplab_zoo",
    "figure1_relu": "figure1",
    "figure7_activation_patterns": "figure7",
    "memory_section_5_1": "memory",
}
ROWS = {
    "MobileNetV1": "mobilenet_v1",
    "ShuffleNet (1.5)": "shufflenet_1.5",
    "ShuffleNet (x2)": "shufflenet_2",
    "NasNet-A": "nasnet_a",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV2 (1.4)": "mobilenet_v2_1.4",
    "SSD": "ssd",
    "SSDLite": "ssdlite",
    "SSD300": "ssd300",
    "SSD512": "ssd512",
    "YOLOv2": "yolo_v2",
    "MNet V1 + SSDLite": "mobilenet_v1_ssdlite",
    "MNet V2 + SSDLite": "mobilenet_v2_ssdlite",
    "MNet V1": "mobilenet_v1",
    "MNet V2*": "mobilenet_v2",
    "ResNet-101": "resnet_101",
    "MNet V2 Cityscapes 1025x2049 OS16, 19 classes": "cityscapes_os16",
    "MNet V2 Cityscapes OS8, scales 0.75,1,1.25 and flips": "cityscapes_os8_mf",
    "MNet V2 VOC OS8 MF": "voc_os8_mf",
}
COLUMNS = {
    "params_m": "params",
    "madds_m": "madds",
    "madds_b": "madds",
    "cpu_ms": "time",
    "map": "mAP",
    "miou": "mIoU",
}
TEXT = {
    "table1/expansion_range_same_curve": "table1/expansion_same_curve",
    "table1/sum_of_17_blocks_224": "table1/madds_of_17_blocks",
    "figure1/input_dim": "figure1/input_dimensions",
    "figure1/output_dims": "figure1/output_dimensions",
    "section4/madds_m": "section4/madds",
    "section4/params_m": "section4/params",
    "section4/madds_min_m": "section4/madds_min",
    "section4/madds_max_m": "section4/madds_max",
    "section4/params_min_m": "section4/params_min",
    "section4/params_max_m": "section4/params_max",
    "table6/claims/times_less_compute_than_yolov2": "table6/times_less_compute_than_yolo_v2",
    "table6/claims/times_smaller_than_yolov2": "table6/times_smaller_than_yolo_v2",
    "table7/claims/v1_times_fewer_than_resnet101": "table7/v1_times_fewer_than_resnet_101",
    "table7/claims/v2_times_fewer_than_v1": "table7/v2_times_fewer_than_v1",
    "training/section_6_1/decay": "training/rmsprop_decay",
    "training/section_6_1/momentum": "training/rmsprop_momentum",
    "training/slim_readme/reaches_top1": "training/slim_top1",
    "training/section_6_2/input": "training/detection_input",
    "training/od_api_ssdlite_config/num_classes": "training/od_api_classes",
    "training/section_6_3/image_size": "table7/image_size",
    "training/section_6_3/output_stride": "table7/output_stride",
    "training/section_6_3/head_depth": "table7/head_channels",
}
PREFIXES = {
    "training/section_6_1/": "training/",
    "training/slim_readme/": "training/slim_",
    "training/od_api_ssdlite_config/": "training/od_api_",
    "table3/max_kb/": "table3/max/",
}
# The record has these ratios of printed numbers; mbv2kit counts them on the networks.
OF_PRINTED = {
    "table6/times_less_compute_than_yolo_v2": ("table6/yolo_v2/madds", "table6/mobilenet_v2_ssdlite/madds"),
    "table6/times_smaller_than_yolo_v2": ("table6/yolo_v2/params", "table6/mobilenet_v2_ssdlite/params"),
    "table7/v2_times_fewer_than_v1": ("table7/mobilenet_v1_os16_aspp/madds", "table7/mobilenet_v2_os16_aspp/madds"),
}


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every recorded number that has a value, by its id in published.yaml."""
    if isinstance(node, dict):
        if node.get("value") is not None and "tolerance" in node:
            yield our_id(path), node
        for key, child in node.items():
            yield from leaves(child, path if key == "rows" else (*path, str(key)))
    elif isinstance(node, list):
        for child in node:
            if isinstance(child, dict):
                yield from leaves(child, (*path, row_of(child)))


def row_of(row: dict[str, Any]) -> str:
    if "width" in row:
        return f"{row['width']}@{row['resolution']}"
    name = ROWS.get(row.get("network", ""), "")
    if "os" in row:
        name += f"_os{row['os']}" + "_aspp" * row["aspp"] + "_mf" * row["mf"]
    return name


def our_id(path: tuple[str, ...]) -> str:
    table, *rest = path
    name = "/".join(
        [TABLES.get(table, table), *rest[:-1], COLUMNS.get(rest[-1], rest[-1]) if len(rest) > 1 else rest[-1]]
    )
    if name in TEXT:
        return TEXT[name]
    for prefix, ours in PREFIXES.items():
        if name.startswith(prefix):
            name = ours + name.removeprefix(prefix)
    return f"{name}_kb" if name.startswith("table3/max/") else name


LEAVES = dict(leaves(yaml.safe_load(RECORDED.read_text(encoding="utf-8")))) if RECORDED.is_file() else {}
COUNTED = [number for number, leaf in LEAVES.items() if leaf.get("ours") is not None and number not in OF_PRINTED]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    if not RECORDED.is_file():
        pytest.skip(f"needs {RECORDED}; set MBV2KIT_SHARED to the folder that holds paper/")
    content: dict[str, Any] = yaml.safe_load(RECORDED.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("number", NUMBERS)
def test_number_of_the_paper(number: str) -> None:
    comparison = Comparison(NUMBERS[number], ours_of(NUMBERS[number]))
    assert comparison.verdict is not Verdict.DISAGREES, f"published {comparison.number.value}, ours {comparison.ours}"
    if comparison.number.kind not in ("accuracy", "time", "setting"):
        assert comparison.ours is not None
    if comparison.number.counted is not None:
        assert comparison.verdict is Verdict.KNOWN


@pytest.mark.parametrize("number", COUNTED)
def test_the_count_rounds_to_the_recorded_digits(number: str) -> None:
    ours = ours_of(NUMBERS[number])
    assert isinstance(ours, float | int)
    assert has_digits_of(ours, LEAVES[number]["ours"]), f"recorded {LEAVES[number]['ours']}, ours {ours}"


def test_no_recorded_number_is_left_out(recorded: dict[str, Any]) -> None:
    assert len(LEAVES) > 250
    missing = []
    for number, leaf in LEAVES.items():
        value = tuple(leaf["value"]) if isinstance(leaf["value"], list) else leaf["value"]
        ours = NUMBERS.get(number)
        # mbv2kit may be stricter if the record has no tolerance.
        if ours is None or ours.value != value or leaf["tolerance"] not in (None, ours.tolerance):
            missing.append(number)
    assert missing == []


def test_tables_2_and_3_match_the_record(recorded: dict[str, Any]) -> None:
    for number, row in enumerate(recorded["table2_architecture"]["rows"], start=1):
        size, _, channels = row["input"].split("x")
        columns = [int(size), int(channels)] + [row[name] for name in "tcns"]
        classes = [1000 if value == "k" else value for value in columns if value is not None]
        pooling = row["op"].startswith("avgpool")
        assert NUMBERS[f"table2/row_{number}"].value == tuple(classes[:2] if pooling else classes)
    for row in recorded["table3_memory"]["rows"]:
        for network in ("mobilenet_v1", "mobilenet_v2", "shufflenet"):
            for column in ("channels", "kb"):
                assert NUMBERS[f"table3/{row['size']}/{network}_{column}"].value == row[network][column]


def test_the_printed_numbers_give_the_ratios_in_the_text(recorded: dict[str, Any]) -> None:
    for ratio, (larger, smaller) in OF_PRINTED.items():
        values = [NUMBERS[number].value for number in (larger, smaller)]
        assert isinstance(values[0], float | int)
        assert isinstance(values[1], float | int)
        assert has_digits_of(values[0] / values[1], LEAVES[ratio]["ours"])


def test_alternative_counts_match_the_record(recorded: dict[str, Any]) -> None:
    """Parameters with batch norm, multiply-adds without padding, YOLOv2's newer configuration."""
    for number, leaf in LEAVES.items():
        case = CASES.get(number.rpartition("/")[0])
        if "with_bn" in leaf and case is not None:
            assert has_digits_of(case.count("params") / 1e6, leaf["with_bn"])
        if "plain" in leaf and case is not None:
            assert has_digits_of(case.count("madds") / 1e9, leaf["plain"])
    newer = detector("yolo_v2", "darknet_19", 416, passthrough_channels=64)
    assert has_digits_of(newer.count("madds") / 1e9, LEAVES["table6/yolo_v2/madds"]["newer_cfg"])
