from pathlib import Path

import pytest

from mbv2kit.errors import UserError
from mbv2kit.inference.image_paths import expand, find_images
from mbv2kit.inference.output_folder import MARKER


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with some files; what they hold does not matter."""
    names = ["b.jpg", "a.PNG", "notes.txt", "[1].jpg", "sub/c.webp", "sub/deep/d.tif", ".trash/e.jpg", "sub/._c.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_of(*paths: str) -> list[str]:
    return [path.as_posix() for path in expand(paths)]


def test_files_come_in_the_order_given_whatever_their_suffix(folder: Path) -> None:
    assert names_of("notes.txt", "b.jpg", "a.PNG", "b.jpg") == ["notes.txt", "b.jpg", "a.PNG", "b.jpg"]


def test_a_folder_names_all_images_below_it_sorted_and_not_hidden(folder: Path) -> None:
    assert names_of(".") == ["[1].jpg", "a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.tif"]
    assert expand([str(folder / "sub" / "deep")]) == [folder / "sub" / "deep" / "d.tif"]


def test_a_hidden_folder_is_read_when_it_is_named(folder: Path) -> None:
    assert names_of(".trash") == [".trash/e.jpg"]


def test_patterns_name_the_images_they_match(folder: Path) -> None:
    assert names_of("*") == ["[1].jpg", "a.PNG", "b.jpg"]
    assert names_of("sub/**/*.*") == ["sub/c.webp", "sub/deep/d.tif"]
    assert names_of("sub/?.webp", "a.*") == ["sub/c.webp", "a.PNG"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    assert names_of("[1].jpg") == ["[1].jpg"]


@pytest.mark.parametrize("name", ["empty.jpg", "*.raw", "sub/[xyz].jpg"])
def test_a_folder_or_glob_without_images_is_named_in_the_error(folder: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        expand(["b.jpg", name])
    assert str(caught.value).startswith(f"{name}: ")
    assert ".jpg" in str(caught.value)


def test_a_missing_file_is_kept_among_others_and_refused_alone(folder: Path) -> None:
    assert names_of("none.jpg", "b.jpg") == ["none.jpg", "b.jpg"]
    with pytest.raises(UserError, match=r"no such file: none\.jpg, x{300}\.jpg;"):
        expand(["none.jpg", "x" * 300 + ".jpg"])


def test_files_that_are_left_out_are_counted_by_suffix(folder: Path) -> None:
    for name in ("a.raw", "b.RAW", "sub/no_suffix"):
        Path(name).touch()
    found = find_images(["."])
    assert found.left_out == {".raw": 2, ".txt": 1, "no suffix": 1}
    assert found.notes() == ["Left out: 4 files that no suffix calls an image (.raw 2, .txt 1, no suffix 1)"]
    with pytest.raises(UserError, match=r"\*\.raw: this pattern matches no image; found: \.raw; known suffixes: "):
        find_images(["*.raw"])


def test_what_inference_wrote_is_read_only_where_it_is_named(folder: Path) -> None:
    for name in ("sub/out/images/c.jpg", f"sub/out/{MARKER}"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert names_of(".") == names_of("**/*.*") == ["[1].jpg", "a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.tif"]
    assert find_images(["."]).notes()[-1] == "Left out: 1 file that an earlier inference wrote"
    assert names_of("sub/out") == names_of("sub/out/images") == names_of("sub/out/*/*") == ["sub/out/images/c.jpg"]


@pytest.mark.parametrize("pattern", ["**/*.jpg", "**", "**.jpg", "*/*/**/*.jpg"])
def test_links_that_lead_back_are_not_followed(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("x.jpg", "a/y.jpg", "a/b/z.jpg"):
        (tmp_path / name).touch()
    for name in ("one", "two"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
    images = expand([str(tmp_path / pattern)])
    below = [tmp_path / name for name in ("a/b/z.jpg", "a/y.jpg", "x.jpg")]
    expected = {"**.jpg": below[2:], "*/*/**/*.jpg": below[:1]}.get(pattern, below)
    assert [image for image in images if "one" not in image.parts and "two" not in image.parts] == expected
    assert len(images) < 20
    assert expand([str(tmp_path)]) == below
