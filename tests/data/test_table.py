import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.data.table import AnnotationTable, Outline, TableBuilder, Texts

# Names that a file system allows: any text, and bytes that are no UTF-8.
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.just("caf\udce9.jpg")


@given(st.lists(NAMES, max_size=20))
def test_texts_behave_like_the_list_they_were_made_from(names: list[str]) -> None:
    texts = Texts(names)
    assert list(texts) == names
    assert texts[1:5] == names[1:5]
    assert [texts[-i - 1] for i in range(len(names))] == names[::-1]
    with pytest.raises(IndexError):
        texts[len(names)]


@st.composite
def images(draw: st.DrawFn) -> list[dict[str, Any]]:
    result = []
    for number in range(draw(st.integers(0, 6))):
        count = draw(st.integers(0, 4))
        rings = [[np.arange(6.0) + draw(st.integers(0, 9))] * draw(st.integers(1, 3)) for _ in range(count)]
        rles = [draw(st.sampled_from([b"", b"abc"])) for _ in range(count)]
        result.append(
            {
                "name": f"{number}.jpg",
                "boxes": draw(st.lists(st.tuples(*[st.integers(0, 99)] * 4), min_size=count, max_size=count)),
                "labels": draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)),
                "crowd": draw(st.lists(st.booleans(), min_size=count, max_size=count)),
                "outlines": [
                    Outline(rle=rle) if rle else Outline(rings=tuple(ring))
                    for ring, rle in zip(rings, rles, strict=True)
                ],
            }
        )
    return result


def build(items: list[dict[str, Any]]) -> AnnotationTable:
    builder = TableBuilder()
    for item in items:
        builder.append(**item)
    return builder.build()


@given(images())
def test_table_returns_what_was_added_even_after_pickling(items: list[dict[str, Any]]) -> None:
    table = pickle.loads(pickle.dumps(build(items)))
    assert len(table) == len(items)
    for index, item in enumerate(items):
        assert table.name(index) == item["name"]
        assert table.boxes(index).tolist() == [list(box) for box in item["boxes"]]
        assert table.boxes(index).shape == (len(item["boxes"]), 4)
        assert table.labels(index).tolist() == item["labels"]
        assert table.crowd(index).tolist() == item["crowd"]
        outlines = table.outlines(index)
        assert len(outlines) == len(item["outlines"])
        for found, expected in zip(outlines, item["outlines"], strict=True):
            assert found.rle == expected.rle
            assert [ring.tolist() for ring in found.rings] == [ring.tolist() for ring in expected.rings]


def test_types_do_not_depend_on_what_was_added() -> None:
    table = build([{"name": "empty.jpg", "boxes": []}])
    assert table.boxes(0).dtype == np.float32
    assert table.labels(0).dtype == np.int64
    assert table.crowd(0).dtype == np.bool_
    assert table.outlines(0) == []


def test_a_table_without_outlines_has_none() -> None:
    table = build([{"name": "a", "boxes": [(0, 0, 1, 1)], "labels": [0], "crowd": [False]}])
    assert table.outlines(0) == []


def test_changing_returned_arrays_does_not_change_the_table() -> None:
    table = build([{"name": "a", "boxes": [(0, 0, 5, 5)], "labels": [3], "crowd": [False]}])
    table.boxes(0)[:] = 9
    table.labels(0)[:] = 9
    assert table.boxes(0).tolist() == [[0, 0, 5, 5]]
    assert table.labels(0).tolist() == [3]


def test_lengths_that_do_not_agree_are_refused() -> None:
    builder = TableBuilder()
    with pytest.raises(ValueError, match=r"a\.jpg: 1 boxes, 2 labels"):
        builder.append("a.jpg", [(0, 0, 1, 1)], [1, 2], [False])
    builder.append("b.jpg", [(0, 0, 1, 1)], [1], [False], [Outline(rle=b"x")])
    builder.append("c.jpg", [(0, 0, 1, 1)], [1], [False])
    with pytest.raises(ValueError, match="all or none must have one"):
        builder.build()


@pytest.mark.parametrize("index", [-1, 1])
def test_an_index_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError):
        build([{"name": "a", "boxes": []}]).boxes(index)
