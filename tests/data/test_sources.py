from pathlib import Path

import pytest

from mbv2kit.data.sources import SOURCES, create_source
from mbv2kit.errors import UserError
from mbv2kit.structures import TASKS


def test_the_registered_names() -> None:
    assert SOURCES.names() == ["coco", "folder", "imagenet", "shapes", "shards", "voc"]


@pytest.mark.parametrize("name", ["coco", "folder", "imagenet", "shapes", "shards", "voc"])
def test_every_source_says_what_it_provides_and_expects(name: str) -> None:
    kind = SOURCES.get(name)
    assert kind.provides <= set(TASKS)  # type: ignore[attr-defined]
    assert kind.provides  # type: ignore[attr-defined]
    assert ("ROOT/" in kind.layout) == (name != "shapes")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("cooc", "detection", r"no dataset 'cooc'\. Did you mean 'coco'"),
        ("coco", "detecton", r"no task 'detecton'\. Did you mean 'detection'"),
        (
            "coco",
            "classification",
            "serves detection, segmentation, not classification; .* folder, imagenet, shapes, shards",
        ),
        ("folder", "detection", "serves classification, not detection; datasets that do: coco, shapes, shards, voc"),
    ],
)
def test_unknown_names_list_the_known_ones(name: str, task: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_source(name, task=task, split="train", root=".")  # type: ignore[arg-type]


def test_an_option_of_another_source_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset 'shapes' has no option 'siez'\. Did you mean 'size'"):
        create_source("shapes", task="detection", split="train", siez=3)


@pytest.mark.parametrize("name", ["coco", "folder", "imagenet", "shards", "voc"])
def test_a_missing_root_shows_where_and_what(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = sorted(SOURCES.get(name).provides)[0]  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        create_source(name, task=task, split="train", root="data/nothing")
    assert str(tmp_path / "data/nothing") in str(error.value)
    assert SOURCES.get(name).layout in str(error.value)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"needs dataset\.root=FOLDER"):
        create_source(name, task=task, split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="Expected layout"):
        create_source(name, task=task, split="train", root="empty")


def test_shapes_takes_no_root() -> None:
    with pytest.raises(UserError, match=r"leave dataset\.root out"):
        create_source("shapes", task="detection", split="train", root="data")
