from pathlib import Path

import pytest

from mbv2kit.lab.benchmark.jobs.catalog import JOBS, list_cases
from mbv2kit.lab.benchmark.results import CaseResult
from tests.lab.benchmark import targets
from tests.lab.benchmark.judging import Pick, Target, judge
from tests.lab.benchmark.results_for_tests import case, results
from tests.lab.benchmark.targets import main


def test_the_fastest_that_fits_is_picked() -> None:
    found = case()
    assert picked(Pick("whole", "mbv2kit"), found) == "mbv2kit int8"
    assert picked(Pick("whole", "mbv2kit", "fp32"), found) == "mbv2kit fp32"
    assert picked(Pick("whole", name="theirs"), found) == "theirs"
    # The one whose whole is shortest, although another's network is.
    assert picked(Pick("network", "runtime"), found) == "runtime b"
    assert picked(Pick("network", "runtime", fastest_by="whole"), found) == "runtime a"
    assert picked(Pick("whole", "mbv2kit", "fp16"), found) is None
    # What failed has no values.
    assert picked(Pick("whole", name="absent"), found) is None


def picked(pick: Pick, found: CaseResult) -> str | None:
    row = pick(found)
    return None if row is None else row.name


def test_speed_ups_and_shares_are_judged_by_the_median_of_the_rounds() -> None:
    ours, theirs = Pick("whole", "mbv2kit", "fp32"), Pick("whole", name="theirs")
    fast = Target(text="fast", job="job", case="case", ours=ours, other=theirs, at_least=2.0)
    faster = Target(text="faster", job="job", case="case", ours=ours, other=theirs, at_least=2.1)
    share = Target(text="share", job="job", case="case", ours=ours, other=theirs, at_most=0.5)
    alone = Target(text="alone", job="job", case="case", ours=ours, other=None, at_most=0.004)
    found = judge([fast, faster, share, alone], results())
    # Theirs 8, 8, 30 over ours 4, 4, 5: 2, 2, 6.
    assert [verdict.value.median for verdict in found] == pytest.approx([2.0, 2.0, 0.5, 0.004])
    assert [verdict.met for verdict in found] == [True, False, True, True]
    assert (found[0].ours, found[0].other, found[3].other) == ("mbv2kit fp32", "theirs", "")


def test_targets_whose_competitors_have_no_results_are_passed_over() -> None:
    absent = Pick("whole", name="absent")
    ours = Pick("whole", "mbv2kit")
    assert not judge(
        [
            Target(text="", job="job", case="case", ours=ours, other=absent, at_least=1.0),
            Target(text="", job="job", case="case", ours=absent, other=ours, at_least=1.0),
            Target(text="", job="other", case="case", ours=ours, other=None, at_most=1.0),
        ],
        results(),
    )


def test_every_target_names_a_case_and_competitors_that_exist(tmp_path: Path) -> None:
    for name in ("mobilenet_v2_1.0_224_quant.tflite", "deeplabv3_mnv2_pascal_quant.tflite"):
        (tmp_path / name).touch()
    cases = {(each.job, each.name): each for each in list_cases(list(JOBS), {}, [], tmp_path)}
    for target in targets.targets():
        competitors = cases[target.job, target.case].competitors
        if target.other is not None and target.other.group != "mbv2kit":
            assert any(
                target.other.name in (None, each.name)
                and target.other.group in (None, each.group)
                and target.other.precision in (None, each.precision)
                for each in competitors
            ), target.text
        assert (target.at_least is None) is not (target.at_most is None)


def test_the_check_prints_what_a_run_meets_and_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "benchmark.json"
    results().save(path)
    ours, theirs = Pick("whole", "mbv2kit", "fp32"), Pick("whole", name="theirs")
    fast = Target(text="fast", job="job", case="case", ours=ours, other=theirs, at_least=2.0)
    alone = Target(text="alone", job="job", case="case", ours=ours, other=None, at_most=0.003)
    monkeypatch.setattr(targets, "targets", lambda: (fast,))
    assert main(path) == 0
    monkeypatch.setattr(targets, "targets", lambda: (fast, alone))
    capsys.readouterr()
    assert main(path) == 1
    assert capsys.readouterr().out.splitlines() == [
        "met    job, fast: at least 2, found 2 (2-4), mbv2kit fp32 over theirs",
        "MISSED job, alone: at most 0.003, found 0.004 (0.004-0.0045), mbv2kit fp32",
        "1 of 2 targets met; 0 not measured.",
    ]
