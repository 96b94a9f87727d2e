"""An index that someone else wrote, or that is damaged, is a sentence, and reads nothing outside of its folder."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbv2kit.data.sources import Source
from mbv2kit.data.sources.shards.index import read_index
from mbv2kit.errors import UserError
from mbv2kit.structures import TASKS

Opened = Callable[..., Source]
Change = Callable[[dict[str, Any]], None]


def rewritten(shards: Path, folder: Path, change: Change | None = None, **columns: Any) -> Path:
    """Copies shards with another index: a function changes each row, or whole columns are replaced."""
    shutil.copytree(shards, folder)
    table = pq.read_table(folder / "index.parquet")
    if change is not None:
        rows = table.to_pylist()
        for row in rows:
            change(row)
        table = pa.Table.from_pylist(rows, schema=table.schema)
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.remove_column(place) if column is None else table.set_column(place, name, column)
    pq.write_table(table, folder / "index.parquet")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "../secret.tar",
        "/etc/secret.tar",
        "a/../../secret.tar",
        "sub/a.tar",
        "a.tar?x",
        "..",
        ".hidden.tar",
        "a\0.tar",
        "http://host/a.tar",
        "",
        "a.txt",
        "x" * 300 + ".tar",
    ],
)
def test_names_that_lead_elsewhere_are_refused(shards: Path, tmp_path: Path, opened: Opened, name: str) -> None:
    folder = rewritten(shards, tmp_path / "out", lambda row: row.update(shard=name))
    with pytest.raises(UserError, match="must be the name of a tar next to the index") as error:
        opened(folder)
    assert len(str(error.value)) < 600


def test_a_link_that_leads_out_of_the_folder_is_refused(shards: Path, tmp_path: Path, opened: Opened) -> None:
    shutil.copytree(shards, tmp_path / "out")
    tar = tmp_path / "out/train-000001.tar"
    shutil.move(tar, tmp_path / "elsewhere.tar")
    tar.symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(UserError, match="leads out of the data set"):
        opened(tmp_path / "out")
    assert len(opened(tmp_path / "out", follow_outside=True)) == 40


def values(**columns: Any) -> Change:
    return lambda row: row.update(columns)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("classification", values(offset=-1), "impossible place in its shard"),
        ("classification", values(offset=2**62), "impossible place in its shard"),
        ("classification", values(size=0), "impossible place in its shard"),
        ("classification", values(size=2**40), "impossible place in its shard"),
        ("classification", values(offset=10**9), r"train-00000\d\.tar: the file ends at byte .* the index expects"),
        ("classification", values(size=10**8), r"train-00000\d\.tar: the file ends at byte .* the index expects"),
        ("segmentation", values(mask_offset=10**9), r"the file ends at byte .* the index expects"),
        ("segmentation", values(mask_offset=-5), "impossible place in its shard"),
        ("segmentation", values(mask_size=None), "column 'mask_size' has gaps"),
        ("classification", values(height=0), "impossible size"),
        ("classification", values(width=2**30), "impossible size"),
        ("classification", values(sha256=None), "column 'sha256' has gaps"),
        ("classification", values(key=None), "column 'key' has gaps"),
        ("classification", values(shard=None), "column 'shard' has gaps"),
        ("classification", values(label=5), "a label that is none of 5 classes"),
        ("classification", values(label=-1), "a label that is none of 5 classes"),
        ("classification", values(label=None), "no image of the split 'train' has ground truth for classification"),
        ("classification", values(split="val"), "lists no image of the split 'train'"),
        ("detection", values(labels=[9], boxes=[0, 0, 1, 1], crowd=[False]), "unknown class"),
        ("detection", values(labels=[0], boxes=[0, 0, 1, 65], crowd=[False]), "outside of its image"),
        ("detection", values(labels=[0], boxes=[3, 0, 1, 1], crowd=[False]), "outside of its image"),
        ("detection", values(labels=[0], boxes=[0, 0, 1, float("nan")], crowd=[False]), "outside of its image"),
        ("detection", values(labels=[0], boxes=[0, 0, 1], crowd=[False]), "other numbers of boxes, labels and crowds"),
        ("detection", values(labels=[0, 0], boxes=[0, 0, 1, 1], crowd=[False]), "other numbers of boxes"),
        ("detection", values(labels=[None], boxes=[0, 0, 1, 1], crowd=[False]), "column 'labels' has gaps"),
        ("detection", values(labels=None), "column 'labels' has gaps"),
        ("detection", values(annotated_labels=[0]), "other numbers of annotated boxes"),
        (
            "detection",
            values(annotated_labels=[7], annotated_boxes=[0, 0, 1, 1], annotated_areas=[1], annotated_crowd=[False]),
            "an annotated box that is impossible",
        ),
        ("segmentation", values(mask_classes=[0], mask_pixels=[2**62]), "are impossible"),
        ("segmentation", values(mask_classes=[0, 1], mask_pixels=[64 * 64, 1]), "another number of pixels"),
        ("segmentation", values(mask_classes=[6], mask_pixels=[64 * 64]), "are impossible"),
        ("segmentation", values(mask_classes=[0, 1], mask_pixels=[64 * 64]), "are impossible"),
        ("segmentation", values(mask_classes=[-7], mask_pixels=[64 * 64]), "are impossible"),
    ],
)
def test_a_value_that_cannot_be_is_a_sentence(
    shards: Path, tmp_path: Path, opened: Opened, task: Any, change: Change, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        opened(rewritten(shards, tmp_path / "out", change), task)
    assert str(tmp_path / "out") in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["split", "offset", "sha256", "boxes", "mask_pixels", "image_id"])
def test_a_column_of_another_type_or_none_is_a_sentence(
    shards: Path, tmp_path: Path, opened: Opened, name: str
) -> None:
    task = {"boxes": "detection", "mask_pixels": "segmentation"}.get(name, "classification")
    texts = rewritten(shards, tmp_path / "texts", None, **{name: pa.array([[1.5]] * 52)})
    with pytest.raises(UserError, match=rf"the column '{name}' is list<.*: double>, expected "):
        opened(texts, task)
    without = rewritten(shards, tmp_path / "without", None, **{name: None})
    with pytest.raises(UserError, match=rf"the column '{name}' is missing, expected "):
        opened(without, task)


@pytest.mark.parametrize(
    "notes",
    [
        None,
        "not json",
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": 1, "class_names": 3}',
        '{"format": 1, "class_names": {"train": 3}}',
        '{"format": 1, "class_names": {"train": {"classification": 3}}}',
        "[" * 100_000,
    ],
)
def test_metadata_of_something_else_is_a_sentence(
    shards: Path, tmp_path: Path, opened: Opened, notes: str | None
) -> None:
    with pytest.raises(UserError, match="this is no index of shards"):
        opened(with_notes(shards, tmp_path / "out", notes))


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"format": 2}, "its format is 2, and this version of mbv2kit reads 1"),
        ({"class_names": {"val": {"classification": ["a", "b"]}}}, "there is no split 'train'; splits found: val"),
        ({"class_names": {"train": {"detection": ["a"]}}}, "has ground truth for detection, not for classification"),
        ({"class_names": {"train": {"classification": ["a", "a"]}}}, "must be different texts"),
        ({"class_names": {"train": {"classification": [1, 2]}}}, "must be different texts"),
        ({"class_names": {"train": {"classification": []}}}, "must be different texts"),
    ],
)
def test_other_metadata_are_a_sentence(
    shards: Path, tmp_path: Path, opened: Opened, notes: Mapping[str, Any], message: str
) -> None:
    usual = {"format": 1, "class_names": {"train": {"classification": ["a", "b"]}}}
    with pytest.raises(UserError, match=message):
        opened(with_notes(shards, tmp_path / "out", json.dumps({**usual, **notes})))


def with_notes(shards: Path, folder: Path, notes: str | None) -> Path:
    shutil.copytree(shards, folder)
    table = pq.read_table(folder / "index.parquet")
    metadata = {} if notes is None else {b"mbv2kit.shards": notes}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "index.parquet")
    return folder


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_index_is_a_sentence_or_still_whole(shards: Path, data: st.DataObject) -> None:
    content = bytearray((shards / "index.parquet").read_bytes())
    if data.draw(st.booleans()):
        # Without the checksums of pages, damage goes further.
        plain = pa.BufferOutputStream()
        pq.write_table(pq.read_table(shards / "index.parquet"), plain)
        content = bytearray(plain.getvalue().to_pybytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
            content[place] ^= data.draw(st.integers(1, 255))
    for task in TASKS:
        with suppress(UserError):
            read_index(bytes(content), "index.parquet", task, "train")


def test_bytes_that_are_not_those_of_the_index_are_a_sentence(shards: Path, tmp_path: Path, opened: Opened) -> None:
    shutil.copytree(shards, tmp_path / "out")
    tar = tmp_path / "out/val-000000.tar"
    content = bytearray(tar.read_bytes())
    row = pq.read_table(tmp_path / "out/index.parquet").to_pylist()[-1]
    content[row["offset"] + 10] ^= 1
    tar.write_bytes(content)
    source = opened(tmp_path / "out", split="val")
    source[0]
    with pytest.raises(UserError, match=rf"{tar}: the file of key {row['key']} does not match its SHA-256"):
        source[len(source) - 1]


def test_an_image_of_another_size_than_the_index_says_is_a_sentence(
    shards: Path, tmp_path: Path, opened: Opened
) -> None:
    folder = rewritten(shards, tmp_path / "out", values(height=63, mask_classes=[0], mask_pixels=[63 * 64]))
    with pytest.raises(UserError, match="has 64 x 64 pixels, but the index says 64 x 63"):
        opened(folder)[0]


def test_a_mask_of_another_kind_is_a_sentence(shards: Path, tmp_path: Path, opened: Opened) -> None:
    def image_as_mask(row: dict[str, Any]) -> None:
        row.update({f"mask_{name}": row[name] for name in ("offset", "size", "sha256")})

    with pytest.raises(UserError, match="the mask must be a gray PNG of 64 x 64 pixels with classes below 6"):
        opened(rewritten(shards, tmp_path / "out", image_as_mask), "segmentation")[0]
