"""The folder of a run is made, claimed, and removed again where nothing was trained."""

from pathlib import Path

import pytest

from mbv2kit.errors import UserError
from mbv2kit.models.run_claim import new_run, old_run, tidy
from mbv2kit.models.run_folder import RunFolder


def test_a_start_that_was_killed_leaves_no_trace_in_the_next(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.77.part").touch()
    (tmp_path / ".mine.part").touch()
    with new_run(tmp_path, named=True) as run:
        run.config.touch()
    assert {path.name for path in tmp_path.iterdir()} == {".mine.part", "config.yaml"}


@pytest.mark.parametrize(("named", "name"), [(True, None), (False, "2024-11-29_10-00-00_2")])
def test_a_name_that_was_chosen_is_refused_where_it_is_taken_and_a_date_gets_a_number(
    tmp_path: Path, named: bool, name: str | None
) -> None:
    path = tmp_path / "2024-11-29_10-00-00"
    path.mkdir()
    (path / "config.yaml").touch()
    if name is None:
        with pytest.raises(UserError, match="holds a run"), new_run(path, named=named):
            pass
    else:
        with new_run(path, named=named) as run:
            assert run.path.name == name


@pytest.mark.parametrize(
    "file",
    ["model/model.json", "metrics.json", "metrics.csv", "checkpoints/a.ckpt", "plots/a.png", "predictions/a.png"],
)
def test_a_folder_with_what_a_run_writes_is_refused_and_stays(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    with (
        pytest.raises(
            UserError, match=rf"holds {file.partition('/')[0]}, which training would write over; name another"
        ),
        new_run(tmp_path, named=True),
    ):
        pass
    assert (tmp_path / file).read_text() == "mine"


def test_other_files_and_empty_folders_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with new_run(tmp_path, named=True) as run:
        run.config.touch()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def fail_in(folder: Path, file: str) -> None:
    with new_run(folder, named=True) as run:
        path = run.path / file
        path.parent.mkdir()
        path.touch()
        raise ZeroDivisionError


def test_what_was_trained_stays_where_a_run_fails(tmp_path: Path) -> None:
    for file in ("checkpoints/last.ckpt", "plots/a.png"):
        with pytest.raises(ZeroDivisionError):
            fail_in(tmp_path / file[0] / "run", file)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        "c/run/checkpoints/last.ckpt"
    ]
    assert not (tmp_path / "p").exists()


def test_what_a_killed_process_left_in_a_finished_run_is_removed_unless_another_works_there(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for name in (".owner", ".config.yaml.77.part"):
        (tmp_path / name).touch()
    tidy(run)
    assert not list(tmp_path.iterdir())
    with old_run(run):
        (tmp_path / ".config.yaml.77.part").touch()
        tidy(run)
        assert {path.name for path in tmp_path.iterdir()} == {".owner", ".config.yaml.77.part"}
