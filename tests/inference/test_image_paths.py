from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.errors import UserError
from mbv2kit.inference.image_paths import expand, output_names


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


@pytest.mark.parametrize("name", ["empty.jpg", "*.heic", "sub/[xyz].jpg"])
def test_a_folder_or_glob_without_images_is_named_in_the_error(folder: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        expand(["b.jpg", name])
    assert str(caught.value).startswith(f"{name}: ")
    assert ".jpg" in str(caught.value)


def test_a_missing_file_is_kept_among_others_and_refused_alone(folder: Path) -> None:
    assert names_of("none.jpg", "b.jpg") == ["none.jpg", "b.jpg"]
    with pytest.raises(UserError, match=r"no such file: none\.jpg, x{300}\.jpg;"):
        expand(["none.jpg", "x" * 300 + ".jpg"])


def test_outputs_have_the_names_of_images_unless_two_are_equal() -> None:
    paths = ["a/cat.jpg", "b/cat.png", "dog.jpg", "Cat.jpg", "cat_2.jpg", "a/cat.jpg"]
    assert output_names(map(Path, paths)) == ["cat", "cat_2", "dog", "Cat_3", "cat_2_2", "cat_4"]


@given(st.lists(st.sampled_from(["a", "A", "a_2", "a_2_2", "b", "a.b"]), max_size=12))
def test_no_output_overwrites_another(stems: list[str]) -> None:
    names = output_names(Path(f"{stem}.jpg") for stem in stems)
    assert len(names) == len(stems)
    assert len({name.lower() for name in names}) == len(names)
    assert all(name.startswith(stem) for name, stem in zip(names, stems, strict=True))
