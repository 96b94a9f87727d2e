from pathlib import Path

import yaml

from mbv2kit.lab.benchmark.assets import asset_table
from mbv2kit.lab.benchmark.jobs.catalog import JOBS, list_cases


def test_a_case_notes_the_published_file_that_it_runs_without(tmp_path: Path) -> None:
    (tmp_path / "deeplabv3_mnv2_pascal_quant.tflite").touch()
    jobs = ["classification", "segmentation"]
    for folder, expected in ((tmp_path, ["batch 1", "batch 32"]), (None, ["batch 1", "batch 32", "513"])):
        cases = list_cases(jobs, {}, [], folder)
        assert [each.name for each in cases if any("shared=" in note for note in each.notes)] == expected


def test_the_baseline_of_every_case_is_one_of_its_competitors(tmp_path: Path) -> None:
    jobs = [job for job in JOBS if job != "memory"]
    for listed in list_cases(jobs, {}, [], tmp_path):
        names = [each.name for each in listed.competitors]
        assert listed.baseline[0] in names
        assert len(names) == len(set(names))


def test_every_library_has_a_key_for_its_interpreter(root: Path, tmp_path: Path) -> None:
    keys = yaml.safe_load((root / "conf" / "benchmark.yaml").read_text())["python"].keys()
    competitors = [each for listed in list_cases(list(JOBS), {}, [], tmp_path) for each in listed.competitors]
    libraries = {each.library for each in (*competitors, *asset_table(tmp_path).values())}
    assert libraries == keys
    needed = {name for each in competitors for name in each.assets}
    assert needed <= asset_table(tmp_path).keys()
