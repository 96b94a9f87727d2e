from pathlib import Path

import pytest
import yaml

from mbv2kit.lab.benchmark.assets import asset_table
from mbv2kit.lab.benchmark.goals import Goal, Pick, judge
from mbv2kit.lab.benchmark.jobs.catalog import JOBS, list_cases
from mbv2kit.lab.benchmark.results import CaseResult, Results, Row
from mbv2kit.lab.benchmark.wanted import goals
from tests.lab.benchmark.results_for_tests import case, results


def test_the_fastest_that_fits_is_picked() -> None:
    found = case()
    assert picked(Pick("whole", "ours"), found) == "ours int8"
    assert picked(Pick("whole", "ours", "fp32"), found) == "ours fp32"
    assert picked(Pick("whole", name="peer"), found) == "peer"
    # The one whose whole is shortest, although another's network is.
    assert picked(Pick("network", "by hand"), found) == "hand b"
    assert picked(Pick("network", "by hand", fastest_by="whole"), found) == "hand a"
    assert picked(Pick("whole", "ours", "fp16"), found) is None
    # What failed has no values.
    assert picked(Pick("whole", name="absent"), found) is None


def picked(pick: Pick, found: CaseResult) -> str | None:
    row = pick(found)
    return None if row is None else row.name


def test_times_as_fast_and_shares_are_judged_by_the_median_of_the_rounds() -> None:
    ours, peer = Pick("whole", "ours", "fp32"), Pick("whole", name="peer")
    fast = Goal(text="fast", job="job", case="case", ours=ours, other=peer, at_least=2.0)
    faster = Goal(text="faster", job="job", case="case", ours=ours, other=peer, at_least=2.1)
    share = Goal(text="share", job="job", case="case", ours=ours, other=peer, at_most=0.5)
    alone = Goal(text="alone", job="job", case="case", ours=ours, other=None, at_most=0.004)
    found = judge([fast, faster, share, alone], results())
    # Peer 8, 8, 30 over ours 4, 4, 5: 2, 2, 6.
    assert [verdict.value.median for verdict in found] == pytest.approx([2.0, 2.0, 0.5, 0.004])
    assert [verdict.reached for verdict in found] == [True, False, True, True]
    assert (found[0].ours, found[0].other, found[3].other) == ("ours fp32", "peer", "")


def test_goals_whose_competitors_were_not_there_are_passed_over() -> None:
    nobody = Pick("whole", name="absent")
    ours = Pick("whole", "ours")
    assert not judge(
        [
            Goal(text="", job="job", case="case", ours=ours, other=nobody, at_least=1.0),
            Goal(text="", job="job", case="case", ours=nobody, other=ours, at_least=1.0),
            Goal(text="", job="other", case="case", ours=ours, other=None, at_most=1.0),
        ],
        results(),
    )


def test_every_goal_is_about_a_case_and_peers_that_there_are(tmp_path: Path) -> None:
    for name in ("mobilenet_v2_1.0_224_quant.tflite", "deeplabv3_mnv2_pascal_quant.tflite"):
        (tmp_path / name).touch()
    cases = {(each.job, each.name): each for each in list_cases(list(JOBS), {}, [], tmp_path)}
    for goal in goals():
        competitors = cases[goal.job, goal.case].competitors
        if goal.other is not None and goal.other.group != "ours":
            assert any(
                goal.other.name in (None, each.name)
                and goal.other.group in (None, each.group)
                and goal.other.precision in (None, each.precision)
                for each in competitors
            ), goal.text
        assert (goal.at_least is None) is not (goal.at_most is None)


def test_a_case_notes_the_published_file_that_it_does_without(tmp_path: Path) -> None:
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


def test_every_library_can_be_told_where_it_is_installed(root: Path, tmp_path: Path) -> None:
    keys = yaml.safe_load((root / "conf" / "benchmark.yaml").read_text())["python"].keys()
    competitors = [each for listed in list_cases(list(JOBS), {}, [], tmp_path) for each in listed.competitors]
    libraries = {each.library for each in (*competitors, *asset_table(tmp_path).values())}
    assert libraries == keys
    needed = {name for each in competitors for name in each.assets}
    assert needed <= asset_table(tmp_path).keys()


def test_results_come_back_from_json_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    before = results()
    before.save(path)
    assert Results.load(path) == before
    assert isinstance(Results.load(path).cases[0].rows[0], Row)
