from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv2kit.data.cut import cut_objects
from mbv2kit.data.sources import Source
from mbv2kit.errors import UserError
from mbv2kit.structures import Sample


class Given(Source):
    """Images in which object ``k`` is a square of value ``5 k + 10`` of class ``k``."""

    def __init__(self, class_names: tuple[str, ...], *image_ids: str) -> None:
        self.class_names = class_names
        self._image_ids = image_ids

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, index: int) -> Sample:
        if self._image_ids[index] == "broken":
            raise UserError("broken.png: the image could not be read.")
        count = len(self.class_names)
        image = np.zeros((20, 20 * count, 3), dtype=np.uint8)
        for label in range(count):
            image[4:14, 20 * label + 4 : 20 * label + 14] = 5 * label + 10
        lefts = np.arange(count, dtype=np.float32) * 20 + 4
        tops = np.full(count, 4, dtype=np.float32)
        boxes = np.stack([lefts, tops, lefts + 10, tops + 10], axis=1)
        return Sample(image=image, image_id=self._image_ids[index], boxes=boxes, labels=np.arange(count))


def everything(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())


def test_objects_are_cut_along_their_boxes(tmp_path: Path) -> None:
    source = Given(("cat", "dog"), "b/one.jpg", "two.png")
    assert cut_objects({"train": source, "val": Given(("cat",))}, tmp_path / "out", 0.0) == {"train": 2 * 2, "val": 0}
    assert list(everything(tmp_path / "out")) == [
        "train/cat/b%2Fone_000.png",
        "train/cat/two_000.png",
        "train/dog/b%2Fone_001.png",
        "train/dog/two_001.png",
    ]
    assert (tmp_path / "out/val/cat").is_dir()
    with Image.open(tmp_path / "out/train/dog/two_001.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.full((10, 10, 3), 15, dtype=np.uint8))


@pytest.mark.parametrize(("margin", "side"), [(0.2, 14), (0.33, 18), (1e9, 20)])
def test_a_margin_ends_at_the_border(tmp_path: Path, margin: float, side: int) -> None:
    cut_objects({"train": Given(("cat",), "a")}, tmp_path, margin)
    with Image.open(tmp_path / "train/cat/a_000.png") as image:
        assert image.size == (side, side)


NAMES = (
    *("..", ".", "../../up", "/etc/passwd", "C:\\Windows", "a\\b", "car", "car/truck", "car%2Ftruck", "nul\0", "a\nb"),
    *("\x1b[31m", "x" * 300, "x" * 299 + "y", "\u00e9" * 200, " ", "trailing.", ".hidden", "-rf", "\udcff", "%", "~"),
    *("CON", "caf\u00e9", "cafe\u0301", "a:b", "a?b", "*"),
)


def test_names_lead_nowhere_else_and_never_together(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b" / "out"
    count = cut_objects({"train": Given(NAMES, *NAMES)}, inside, 0.0)["train"]
    files = list(everything(tmp_path))
    assert count == len(files) == len(NAMES) ** 2
    assert all(file.startswith("a/b/out/train/") and len(Path(file).parts) == 6 for file in files)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    folders = sorted((inside / "train").iterdir())
    assert len(folders) == len(NAMES)
    for folder in folders:
        # Every object of a class is in its folder: the values of its pixels tell.
        assert len({Image.open(file).getpixel((0, 0)) for file in folder.iterdir()}) == 1


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    names = ("a/x.png", "b/x.png", "x.png", "x.jpg", "x", "x.jpg.png", "x.jpg~2", "x.JPG")
    assert cut_objects({"train": Given(("cat",), *names)}, tmp_path, 0.0) == {"train": len(names)}
    assert len(list(everything(tmp_path))) == len(names)


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_that_is_no_share_is_refused(tmp_path: Path, margin: float) -> None:
    with pytest.raises(UserError, match="margin must be a number of at least 0, got"):
        cut_objects({"train": Given(("cat",), "a")}, tmp_path, margin)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val/mine.txt").write_text("precious")
    with pytest.raises(UserError, match=r"val is not an empty folder; name another with output=DIR"):
        cut_objects({"train": Given(("cat",), "a"), "val": Given(("cat",), "a")}, tmp_path, 0.0)
    assert list(everything(tmp_path)) == ["val/mine.txt"]
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match=r"^.*file cannot be written \("):
        cut_objects({"train": Given(("cat",), "a")}, tmp_path / "file", 0.0)
    assert (tmp_path / "file").read_text() == "precious"


def test_an_image_that_cannot_be_read_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    splits = {"train": Given(("cat",), "a"), "val": Given(("cat",), "a", "broken")}
    with pytest.raises(UserError, match=r"broken\.png"):
        cut_objects(splits, tmp_path / "out", 0.0)
    assert list((tmp_path / "out").iterdir()) == []
    assert cut_objects(splits | {"val": Given(("cat",), "a")}, tmp_path / "out", 0.0) == {"train": 1, "val": 1}


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match=r"^.*out cannot be written \(No space left on device\); make room"):
        cut_objects({"train": Given(("cat",), "a")}, tmp_path / "out", 0.0)
