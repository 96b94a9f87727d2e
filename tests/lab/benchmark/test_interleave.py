from pathlib import Path

import pytest

from mbv2kit.lab.benchmark.assets import Asset, AssetStore
from mbv2kit.lab.benchmark.competitor import Case, FinishedProcess, FunctionCompetitor, ProgramCompetitor, Settings
from mbv2kit.lab.benchmark.interleave import run_case, warm_up
from mbv2kit.lab.benchmark.jobs.whole_programs import throughput, whole_process
from mbv2kit.lab.benchmark.results import CaseResult

FAKES = "tests.lab.benchmark.fakes"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(threads=1, rounds=3, slice=0.0, warm_up=0.0, pythons={}, folder=tmp_path / "materials")


def fake(name: str, function: str, needs: tuple[str, ...] = (), **options: float) -> FunctionCompetitor:
    return FunctionCompetitor(
        name=name, group="library", library="fake", needs=needs, setup=f"{FAKES}:{function}", options=options
    )


@pytest.fixture
def found(settings: Settings) -> CaseResult:
    case = Case(
        job="classification",
        name="batch 1",
        title="Fakes",
        baseline=("slow", "whole"),
        competitors=[
            fake("slow", "quick", seconds=0.01),
            fake("fast", "quick", seconds=0.001),
            fake("missing", "quick", needs=("no_such_package",)),
            fake("broken", "broken"),
            # Each turn has an untimed and a timed call, so it fails in the second turn.
            fake("failing", "breaking", after=3),
        ],
    )
    told: list[str] = []
    result = run_case(case, settings, AssetStore({}, settings), told.append)
    rounds = [text for text in told if text.startswith("round")]
    assert rounds[:6] == [
        *(f"round 1 of 3: {name}" for name in ("slow", "fast", "failing")),
        *(f"round 2 of 3: {name}" for name in ("failing", "fast", "slow")),
    ]
    assert rounds[6:] == ["round 3 of 3: slow", "round 3 of 3: fast"]
    return result


def test_each_competitor_has_a_value_per_round_or_a_reason(found: CaseResult) -> None:
    slow, fast, missing, broken, failing = found.rows
    assert {measure: len(values) for measure, values in slow.rounds.items()} == {"whole": 3, "network": 3}
    assert found.speed_ups(slow, "whole") == [1.0, 1.0, 1.0]
    ups = found.speed_ups(fast, "whole")
    assert ups is not None
    assert all(up > 1 for up in ups)
    assert (missing.rounds, broken.rounds, failing.rounds) == ({}, {}, {})
    assert (missing.problem or "").startswith("skipped: no_such_package not installed in ")
    assert broken.problem == "failed: ValueError: there is no network in this file"
    assert failing.problem == "failed: ended with code 3: Fatal: out of luck"


def test_without_a_baseline_there_is_no_speed_up(found: CaseResult) -> None:
    found.rows[0].problem = "failed: for this test"
    assert found.speed_ups(found.rows[1], "whole") is None


def test_whole_processes_take_turns_too(settings: Settings) -> None:
    def program(name: str, code: str) -> ProgramCompetitor:
        return ProgramCompetitor(
            name=name, group="library", library="fake", commands={"whole": ["{python}", "-c", code]}
        )

    case = Case(
        job="cold_start",
        name="one image",
        title="Programs",
        baseline=("good", "process"),
        competitors=[program("good", "pass"), program("bad", "import no_such_package")],
        evaluate=whole_process,
    )
    good, bad = run_case(case, settings, AssetStore({}, settings), lambda _: None).rows
    assert len(good.rounds["process"]) == 3
    assert bad.problem == "failed: ended with code 1: ModuleNotFoundError: No module named 'no_such_package'"


def test_a_warm_up_ends_when_times_settle_or_at_its_limit(tmp_path: Path) -> None:
    settings = Settings(threads=1, rounds=1, slice=1.0, warm_up=10.0, pythons={}, folder=tmp_path)
    turns = iter([[4.0], [2.0], [1.0], [1.0], [1.0], [1.0]])
    assert warm_up(lambda _: next(turns), settings) == [4.0, 2.0, 1.0, 1.0, 1.0]
    unsettled = iter([[4.0], [2.0], [4.0], [2.0]])
    assert warm_up(lambda _: next(unsettled), settings) == [4.0, 2.0, 4.0]


def test_an_asset_is_made_once_after_those_that_it_needs(settings: Settings) -> None:
    def asset(text: str, *assets: str) -> Asset:
        return Asset(setup=f"{FAKES}:write", library="fake", needs=(), options={"text": text}, assets=assets)

    table = {"one": asset("1"), "two": asset("2", "one"), "bad": Asset(setup="x:y", library="f", needs=())}
    assets = AssetStore(table, settings)
    assert assets.path("two").read_text() == "12"
    assets.path("one").write_text("kept")
    assert assets.path("one").read_text() == "kept"
    assert sorted(path.name for path in settings.folder.iterdir()) == ["one", "two"]


def test_a_competitor_whose_asset_cannot_be_made_has_a_reason(settings: Settings) -> None:
    table = {"network": Asset(setup=f"{FAKES}:write", library="fake", needs=("no_such_package",))}
    competitor = FunctionCompetitor(
        name="fake", group="library", library="fake", assets=("network",), setup=f"{FAKES}:quick", options={}
    )
    case = Case(job="j", name="c", title="t", baseline=("fake", "whole"), competitors=[competitor])
    (row,) = run_case(case, settings, AssetStore(table, settings), lambda _: None).rows
    assert row.problem is not None
    assert row.problem.startswith("skipped: network could not be made: no_such_package not installed in ")
    (row,) = run_case(case, settings, AssetStore({}, settings), lambda _: None).rows
    assert row.problem is not None
    assert row.problem.startswith("skipped: network")


def test_the_steady_time_per_image_excludes_the_start() -> None:
    # 3 seconds to start, 10 ms per image.
    done = {"few": FinishedProcess(seconds=3.2, megabytes=1), "many": FinishedProcess(seconds=5.0, megabytes=1)}
    assert throughput(done) == pytest.approx({"steady": 0.01, "process": 0.025})
