import pytest

from mbv2kit.lab.paper.table3 import Cell, Column, corrected_columns, paper_columns

# Table 3 of the paper by resolution: channels and Kb of each network; its 32 channels (800 Kb) of ShuffleNet at 112 and
# the 199 Kb of MobileNetV1 at 7 are misprints, corrected here.
PRINTED: dict[str, dict[int, tuple[int, float]]] = {
    "mobilenet_v1": {112: (64, 1600), 56: (128, 800), 28: (256, 400), 14: (512, 200), 7: (1024, 100), 1: (1024, 2)},
    "mobilenet_v2": {112: (16, 400), 56: (32, 200), 28: (64, 100), 14: (160, 62), 7: (320, 31), 1: (1280, 2.5)},
    "shufflenet": {112: (48, 1204), 56: (48, 300), 28: (400, 627), 14: (800, 313), 7: (1600, 156), 1: (1600, 3.2)},
}
THERE = {
    "mobilenet_v1": {112: 64, 56: 128, 28: 256, 14: 512, 7: 1024, 1: 1024},
    "mobilenet_v2": {112: 16, 56: 24, 28: 32, 14: 96, 7: 320, 1: 1280},
    "shufflenet": {112: 48, 56: 48, 28: 480, 14: 960, 7: 1920, 1: 1920},
}


def channels(columns: dict[str, Column]) -> dict[str, dict[int, int]]:
    return {name: {side: cell.channels for side, cell in column.cells.items()} for name, column in columns.items()}


def test_the_papers_way_of_counting_gives_its_numbers() -> None:
    columns = paper_columns()
    assert channels(columns) == {
        name: {side: width for side, (width, _) in cells.items()} for name, cells in PRINTED.items()
    }
    for name, cells in PRINTED.items():
        for side, (_, kilobytes) in cells.items():
            assert columns[name].cells[side].kilobytes == pytest.approx(kilobytes, rel=0.03)
    maxima = {name: column.maximum.kilobytes for name, column in columns.items()}
    assert maxima == {"mobilenet_v1": 1605.632, "mobilenet_v2": 401.408, "shufflenet": 627.2}


def test_corrected_columns_have_the_widest_real_tensors() -> None:
    columns = corrected_columns()
    assert channels(columns) == THERE
    assert {name: column.maximum for name, column in columns.items()} == {
        "mobilenet_v1": Cell(112, 64),
        "mobilenet_v2": Cell(112, 16),
        "shufflenet": Cell(112, 48),
    }
    kilobytes = [round(columns["mobilenet_v2"].cells[side].kilobytes, 2) for side in (112, 56, 28, 14, 7, 1)]
    assert kilobytes == [401.41, 150.53, 50.18, 37.63, 31.36, 2.56]
    kilobytes = [round(columns["shufflenet"].cells[side].kilobytes, 2) for side in (112, 56, 28, 14, 7, 1)]
    assert kilobytes == [1204.22, 301.06, 752.64, 376.32, 188.16, 3.84]
