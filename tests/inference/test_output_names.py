from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.inference.output_names import output_names


def names_of(*images: str, folders: list[str] | None = None) -> list[str]:
    paths = [Path(image) for image in images]
    return output_names(paths, [path.parent for path in paths] if folders is None else list(map(Path, folders)))


def test_names_keep_the_folders_that_tell_images_apart() -> None:
    assert names_of("photos/cat/0.png", "photos/dog/0.png", folders=["photos"]) == ["cat/0", "dog/0"]
    assert names_of("photos/cat/0.png", folders=["photos"]) == ["cat/0"]
    assert names_of("photos/cat/0.png", "photos/dog/0.png", folders=["photos/cat", "photos/dog"]) == ["cat/0", "dog/0"]
    assert names_of("photos/cat/0.png", "photos/dog/0.png") == ["cat/0", "dog/0"]
    assert names_of("photos/cat/0.png", "photos/cat/1.png") == ["0", "1"]
    assert names_of("/elsewhere/a/0.png", "/elsewhere/b/c/0.png") == ["a/0", "b/c/0"]


def test_no_name_leaves_the_folder_of_results() -> None:
    assert names_of("../up/a.jpg", "b.jpg", folders=["x"]) == ["a", "b"]
    assert all(
        not Path(name).is_absolute() and ".." not in name for name in names_of("/a.jpg", "../b.jpg", "c/../d.jpg")
    )


def test_equal_names_get_a_number() -> None:
    images = ["cat.jpg", "cat.png", "dog.jpg", "Cat.jpg", "cat_2.jpg", "cat.jpg"]
    assert names_of(*images) == ["cat", "cat_2", "dog", "Cat_3", "cat_2_2", "cat_4"]


@given(st.lists(st.sampled_from(["a", "A", "a_2", "a_2_2", "b", "a.b", "x/a", "X/A"]), max_size=12))
def test_no_output_overwrites_another(stems: list[str]) -> None:
    names = names_of(*(f"{stem}.jpg" for stem in stems), folders=["."])
    assert len(names) == len(stems)
    assert len({name.lower() for name in names}) == len(names)
    assert all(name.startswith(stem) for name, stem in zip(names, stems, strict=True))


def test_many_images_of_one_name_are_named_in_one_pass() -> None:
    names = names_of(*["a/x.jpg"] * 20_000)
    assert names[-1] == "x_20000"
    assert len(set(names)) == 20_000


def test_a_name_as_long_as_file_systems_take_is_cut(tmp_path: Path) -> None:
    long = [tmp_path / f"{'x' * 250}{i}.jpg" for i in range(2)] + [tmp_path / f"{'é' * 125}.jpg"]
    for path in long:
        path.touch()
    names = output_names(long, [tmp_path])
    assert len(set(names)) == 3
    for name in names:
        (tmp_path / f"{name}_classification.jpg").touch()
