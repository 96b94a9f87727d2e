from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mbv2kit.files import claim_folder


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
