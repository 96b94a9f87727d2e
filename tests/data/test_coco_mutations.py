"""Any value in any place of a COCO file: the data set opens and every image is read, or one sentence says why not."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mbv2kit.data.census import take_census
from mbv2kit.data.sources import create_source
from mbv2kit.errors import UserError
from mbv2kit.structures import Task

CONTENT: dict[str, Any] = {
    "info": {},
    "images": [{"id": i, "file_name": f"{i}.png", "height": 12, "width": 16} for i in (1, 2)],
    "categories": [{"id": i, "name": f"c{i}", "supercategory": "c0"} for i in (0, 1, 7)],
    "annotations": [
        {
            **{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "area": 20.5, "iscrowd": 0},
            "segmentation": [[1, 2, 6, 2, 6, 8, 1, 8], [9, 9, 10, 9, 10, 10]],
        },
        {
            **{"id": 2, "image_id": 2, "category_id": 7, "bbox": [0, 0, 16, 12], "area": 192, "iscrowd": 1},
            "segmentation": {"size": [12, 16], "counts": [100, 92]},
        },
        {
            **{"id": 3, "image_id": 2, "category_id": 7, "bbox": [0, 0, 1, 12], "iscrowd": 0},
            "segmentation": {"size": [12, 16], "counts": "0<T5"},
        },
    ],
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 20),
    st.sampled_from([2**31, 2**32, 2**63, 10**30, 10**400, -(10**9), 1e7, 1e300, float("nan"), float("inf")]),
    st.floats(),
    st.sampled_from(
        ["", " ", "0", "1", "1.png", "../1.png", "/etc/hostname", "c1", "ü\ud800", "\0", "a" * 300, "\x1b[31m"]
    ),
    st.text(max_size=4),
    st.lists(st.integers(-5, 20) | st.floats(width=32), max_size=10),
    st.lists(st.lists(st.integers(-5, 20), max_size=8), max_size=3),
    st.dictionaries(st.sampled_from(["id", "size", "counts", "name"]), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


PLACES = [place for place in places(CONTENT) if place]
REMOVED = object()


def put(content: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        content = content[key]
    if value is REMOVED:
        del content[place[-1]]
    else:
        content[place[-1]] = value


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mutations")
    (root / "annotations").mkdir()
    (root / "val").mkdir()
    for number in (1, 2):
        Image.new("RGB", (16, 12)).save(root / f"val/{number}.png")
    return root


def open_and_read(root: Path, task: Task) -> None:
    try:
        source = create_source("coco", task=task, root=root, split="val")
        for index in range(len(source)):
            source[index]
        take_census(source)
    except UserError as error:
        _check_message(str(error))


def _check_message(message: str) -> None:
    assert len(message) < 1500


@given(st.data(), st.sampled_from(["detection", "segmentation"]))
def test_any_value_in_any_place(root: Path, data: st.DataObject, task: Task) -> None:
    content = copy.deepcopy(CONTENT)
    place = data.draw(st.sampled_from(PLACES))
    put(content, place, data.draw(ODD | st.just(REMOVED)))
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    open_and_read(root, task)


@given(st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=4), st.sampled_from(["detection", "segmentation"]))
def test_any_bytes_in_any_place(root: Path, position: int, noise: bytes, task: Task) -> None:
    text = json.dumps(CONTENT).encode()
    position %= len(text)
    (root / "annotations/instances_val.json").write_bytes(text[:position] + noise + text[position + len(noise) :])
    open_and_read(root, task)
