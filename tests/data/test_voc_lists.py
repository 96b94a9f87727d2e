import logging
from pathlib import Path

import pytest

from mbv2kit.errors import UserError
from tests.data.voc_trees import image, make_tree, open_voc, write, xml

CAT = xml(("cat", (1, 1, 20, 20)))


def names_of(root: Path) -> list[str]:
    source = open_voc(root)
    return [source[index].image_id for index in range(len(source))]


def files(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, CAT)


@pytest.mark.parametrize(
    ("images", "lines", "names"),
    [
        (("shot.jpg", "shot (2).jpg", "a b  c.jpg"), ("shot", "shot (2)", " a b  c "), ["shot", "shot (2)", "a b  c"]),
        (("shot.jpg", "shot 1.jpg"), ("shot  1", "shot 1", "shot -1"), ["shot", "shot 1"]),
        (("shot.jpg", "plate.jpg"), ("shot  0", "plate -1"), ["shot", "plate"]),
        (("v1/f1.jpg", "v2/f1.jpg"), ("v1/f1", "v2/f1"), ["v1/f1", "v2/f1"]),
        (("v1/f1.jpg", "x.jpg"), ("v1\\f1", "./x"), ["v1/f1", "x"]),
        (("v1/f1.jpg", "x.jpg"), ("JPEGImages/v1/f1.jpg 1", "JPEGImages/x.jpg"), ["v1/f1", "x"]),
        (("x.jpg", "y.v2.jpg"), ("x.jpg", "y.v2"), ["x", "y.v2"]),
        (("a.bmp", "b.TIF", "c.webp", "d.jfif", "e.JPEG"), tuple("abcde"), list("abcde")),
    ],
)
def test_a_line_is_the_name_of_an_image(
    tmp_path: Path, images: tuple[str, ...], lines: tuple[str, ...], names: list[str]
) -> None:
    make_tree(tmp_path, {}, *lines)
    for file in images:
        name, _, suffix = file.rpartition(".")
        image(tmp_path / "JPEGImages" / name, f".{'jpg' if suffix == 'jfif' else suffix}")
        if suffix == "jfif":
            (tmp_path / f"JPEGImages/{name}.jpg").rename(tmp_path / f"JPEGImages/{file}")
        (tmp_path / f"Annotations/{name}.xml").parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path, name, CAT)
    assert names_of(tmp_path) == names


def test_repeated_names_count_once_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tree(tmp_path, files("a.png", "b.png"), "a", "b", "a", "a.png", "a 1")
    with caplog.at_level(logging.INFO):
        source = open_voc(tmp_path)
    assert len(source) == 2
    path = tmp_path / "ImageSets/Main/train.txt"
    lines = [record.message for record in caplog.records if "repeat" in record.message]
    assert lines == [f"{path}: 3 lines repeat an image, which counts once: a"]


@pytest.mark.parametrize("lines", [("x",), ("x.png", "x.jpg")])
def test_two_images_of_one_name_are_refused(tmp_path: Path, lines: tuple[str, ...]) -> None:
    make_tree(tmp_path, files("x.jpg", "x.png"), *lines)
    with pytest.raises(UserError, match=r"train\.txt: 'x' may be x\.(jpg|png) or x\.(jpg|png), which share one"):
        open_voc(tmp_path)


def test_a_name_with_its_suffix_means_that_file(tmp_path: Path) -> None:
    make_tree(tmp_path, files("x.jpg", "x.png"), "x.png")
    source = open_voc(tmp_path)
    assert source._files[0] == "x.png"


def test_names_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data", files("a.png"), "../../secret")
    image(tmp_path / "secret")
    with pytest.raises(UserError, match=r"no image for '\.\./\.\./secret'"):
        open_voc(root)


def test_images_that_cannot_be_read_are_named_where_one_is_missing(tmp_path: Path) -> None:
    make_tree(tmp_path, files("a.png"), "a", "b")
    (tmp_path / "JPEGImages/b.raw").write_bytes(b"")
    with pytest.raises(UserError, match=r"no image for 'b', .*, but there are 1 files that cannot .* \(1 \.raw; such"):
        open_voc(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_lists_and_classes_in_any_usual_encoding(tmp_path: Path, encoding: str) -> None:
    make_tree(tmp_path, {"caf\u00e9.png": xml(("ch\u00e8vre", (1, 1, 20, 20)))})
    (tmp_path / "ImageSets/Main/train.txt").write_bytes("caf\u00e9\r\n".encode(encoding))
    (tmp_path / "classes.txt").write_bytes("ch\u00e8vre\r\n".encode(encoding))
    source = open_voc(tmp_path)
    assert source.class_names == ("ch\u00e8vre",)
    assert source[0].image_id == "caf\u00e9"


def test_classes_that_look_alike_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_tree(tmp_path, {"a.png": xml(("RBC", (1, 1, 20, 20)), ("rbc", (1, 1, 9, 9)), ("WBC", (1, 1, 9, 9)))}, "a")
    assert open_voc(tmp_path).class_names == ("RBC", "WBC", "rbc")
    assert "The classes 'RBC', 'rbc' differ only by case" in caplog.text


def test_a_list_of_classes_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    make_tree(tmp_path, files("a.png"), "a")
    (tmp_path / "classes.txt").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"classes\.txt: the file could not be read \(No such file"):
        open_voc(tmp_path)
