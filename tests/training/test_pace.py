"""The speed of steps and the share of the time that they wait for images, with a clock of the test."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mbv2kit.training.pace import Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("mbv2kit.training.pace.time.perf_counter", lambda: now[0])
    return now


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the load of the last minute on a machine of two cores; the longer ones do not count."""

    def call(load: float) -> None:
        monkeypatch.setattr("mbv2kit.training.pace.os.getloadavg", lambda: (load, 9.0, 0.0), raising=False)
        monkeypatch.setattr("mbv2kit.training.pace.os.cpu_count", lambda: 2)

    return call


def run_epoch(pace: Pace, clock: list[float], *steps: tuple[float, float], images: int = 8) -> None:
    """Runs an epoch whose steps each wait and compute for some seconds."""
    nothing: Any = None
    batch = SimpleNamespace(image_ids=["a"] * images)
    pace.on_train_epoch_start(nothing, nothing)
    for index, (waits, computes) in enumerate(steps):
        clock[0] += waits
        pace.on_train_batch_start(nothing, nothing, batch, index)
        clock[0] += computes
        pace.on_train_batch_end(nothing, nothing, None, batch, index)
    # Validation is no part of it.
    clock[0] += 1000


def test_each_epoch_has_its_own_pace(clock: list[float]) -> None:
    pace = Pace()
    run_epoch(pace, clock, (3, 1), (1, 3))
    assert (pace.images_per_second, pace.waiting) == (16 / 8, 0.5)
    run_epoch(pace, clock, (1, 9), images=20)
    assert (pace.images_per_second, pace.waiting) == (2.0, 0.1)


def test_an_epoch_that_goes_on_after_a_stop_is_timed_from_there(clock: list[float]) -> None:
    pace, nothing = Pace(), SimpleNamespace(image_ids=["a"] * 8)
    pace.on_train_start(nothing, nothing)  # type: ignore[arg-type]
    clock[0] += 1
    pace.on_train_batch_start(nothing, nothing, nothing, 5)  # type: ignore[arg-type]
    clock[0] += 3
    pace.on_train_batch_end(nothing, nothing, None, nothing, 5)  # type: ignore[arg-type]
    assert (pace.images_per_second, pace.waiting) == (2.0, 0.25)


def test_an_epoch_without_a_step_has_none() -> None:
    assert (Pace().images_per_second, Pace().waiting) == (0.0, 0.0)


def test_much_waiting_is_told_once(
    clock: list[float], caplog: pytest.LogCaptureFixture, two_cores: Callable[[float], None]
) -> None:
    two_cores(1.0)
    pace = Pace()
    told = []
    # Little, too short to tell, much, and much again.
    for waits, computes in ((2, 20), (5, 5), (10, 20), (10, 20)):
        run_epoch(pace, clock, (waits, computes))
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            pace.tell(workers=1)
            told.append([record.getMessage() for record in caplog.records])
    sentence = (
        "training waited 33 % of the time for images, and cores are idle; let more processes read: loader.workers=2"
    )
    assert told == [[], [], [sentence], []]


def test_nothing_is_told_where_all_cores_work(
    clock: list[float], caplog: pytest.LogCaptureFixture, two_cores: Callable[[float], None]
) -> None:
    two_cores(1.5)
    pace = Pace()
    run_epoch(pace, clock, (10, 20))
    with caplog.at_level(logging.WARNING):
        pace.tell(workers=0)
    assert not caplog.records
