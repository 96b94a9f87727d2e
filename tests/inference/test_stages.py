from concurrent.futures import ThreadPoolExecutor
from threading import local

import pytest

from mbv2kit.inference import stages
from mbv2kit.inference.stages import Stages


def test_a_line_has_mean_times_and_images_per_second() -> None:
    times = Stages()
    times.seconds |= {"reading": 0.6, "network": 0.42, "postprocessing": 0.01, "writing": 0.0}
    assert times.describe(200, 2, 0.5) == (
        "Milliseconds an image: reading 3.0, network 2.1, postprocessing 0.1, writing 0.0; "
        "2 at a time, 400.0 images a second"
    )
    assert times.describe(1, 1, 2.0).endswith("one at a time, 0.5 images a second")


class SlowClock(local):
    """Each reading is a second after the one before it in the same thread."""

    now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


def test_times_of_all_threads_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "perf_counter", SlowClock())
    times = Stages()

    def time_many(_: int) -> None:
        for _ in range(1000):
            with times.timing("reading"):
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(time_many, range(4)))
    assert times.seconds == {"reading": 4000, "network": 0, "postprocessing": 0, "writing": 0}


def test_a_failing_stage_counts_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "perf_counter", SlowClock())
    times = Stages()
    with pytest.raises(OSError, match="full"), times.timing("writing"):
        raise OSError("full")
    assert times.seconds["writing"] == 1
