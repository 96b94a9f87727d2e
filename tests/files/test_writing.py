import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mbv2kit.errors import UserError
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.files.writing import claim_folder, remove_unfinished, write_atomically


def test_each_of_several_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    wanted = tmp_path / "runs" / "2024-11-29"
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: claim_folder(wanted), range(24)))
    assert {folder.name for folder in folders} == {wanted.name, *(f"{wanted.name}_{i}" for i in range(2, 25))}
    assert all(folder.is_dir() for folder in folders)


def test_a_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert claim_folder(tmp_path / "run") == tmp_path / "run_2"
    assert (tmp_path / "run").read_text() == "mine"


# Files.


def content(path: Path) -> set[str]:
    return {each.name for each in path.iterdir()}


def test_a_file_is_replaced_as_a_whole_with_the_mode_that_the_user_wants(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    before = os.umask(0o027)
    try:
        write_atomically(path, "one")
        write_atomically(path, b"two")
    finally:
        os.umask(before)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert content(tmp_path) == {"a.json"}


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "that you may write to"), (errno.ESTALE, "still there")],
)
def test_the_previous_file_stays_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "one")

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(UserError, match=rf"^{path} cannot be written \({os.strerror(number)}\); .*{advice}") as caught:
        write_atomically(path, "two")
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == number
    assert path.read_text() == "one"
    assert content(tmp_path) == {"a.json"}


def test_what_torch_makes_of_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    def save() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 704 vs 598")  # noqa: B904 - as torch

    with (
        pytest.raises(UserError, match=r"^out cannot be written \(No space left on device\); make room"),
        disk_errors_told("out"),
    ):
        save()


def test_errors_about_other_files_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors_told(tmp_path / "out"):
        (tmp_path / "data" / "labels.txt").read_text()


def test_an_output_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(UserError, match=r"out.* cannot be written \(.*\); name another folder"),
        disk_errors_told(tmp_path / "out"),
    ):
        (tmp_path / "out" / "plots").mkdir(parents=True)


@pytest.mark.parametrize("absolute", [True, False])
def test_a_folder_in_the_place_of_a_file_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/last.ckpt").mkdir(parents=True)
    (tmp_path / "run/new").touch()
    other = tmp_path if absolute else Path()
    with (
        pytest.raises(UserError, match=r"last\.ckpt cannot be written \(.*\); name another folder"),
        disk_errors_told("run" if absolute else tmp_path / "run"),
    ):
        (other / "run/new").replace(other / "run/last.ckpt")


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (".a.json.7.part", "checkpoints/.last.ckpt.123.part", "checkpoints/last.ckpt", ".hidden"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert content(tmp_path) == {"checkpoints", ".hidden"}
    assert content(tmp_path / "checkpoints") == {"last.ckpt"}
