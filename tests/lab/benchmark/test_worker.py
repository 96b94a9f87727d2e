import os
import subprocess
import sys
from pathlib import Path

import pytest

import mbv2kit
from mbv2kit.lab.benchmark.worker import CompetitorError, SkippedError, Worker, environment
from mbv2kit.lab.benchmark.worker_process import time_calls

FAKES = "tests.lab.benchmark.fakes"


def test_a_worker_lists_its_measures_and_times_each_call() -> None:
    with Worker(sys.executable, f"{FAKES}:quick", {"threads": 2}, ["json"]) as worker:
        assert worker.measures == ["whole", "network"]
        assert worker.facts["threads"] == 2
        times = worker.time("whole", 0.01)
        assert times
        assert all(time >= 0.001 for time in times)
        worker.stop()
        worker.resume()
        assert worker.time("network", 0.0)


def test_what_libraries_print_does_not_mix_with_the_replies() -> None:
    with Worker(sys.executable, f"{FAKES}:printing", {}) as worker:
        assert len(worker.time("whole", 0.0)) == 1


def test_a_missing_package_is_named() -> None:
    with pytest.raises(SkippedError, match=f"^no_such_package not installed in {sys.executable}$"):
        Worker(sys.executable, f"{FAKES}:quick", {}, ["json", "no_such_package"])


def test_a_failed_setup_is_reported_in_one_line() -> None:
    with pytest.raises(CompetitorError, match=r"^ValueError: there is no network in this file$"):
        Worker(sys.executable, f"{FAKES}:broken", {"threads": 1})


def test_a_process_that_dies_leaves_its_last_line() -> None:
    with (
        Worker(sys.executable, f"{FAKES}:breaking", {"threads": 1, "after": 1}) as worker,
        pytest.raises(CompetitorError, match=r"^ended with code 3: Fatal: out of luck$"),
    ):
        worker.time("whole", 0.0)


def test_waiting_ends_after_the_timeout() -> None:
    with pytest.raises(CompetitorError, match=r"^no answer within 0\.3 s$"):
        Worker(sys.executable, f"{FAKES}:silent", {}, patience=0.3)


def test_the_first_call_is_not_timed() -> None:
    clock = iter([0.0, 0.1, 0.4, 0.5, 0.6, 1.2, 1.3])
    calls: list[None] = []
    times = time_calls(lambda: calls.append(None), 1.0, lambda: next(clock))
    assert times == pytest.approx([0.3, 0.6])
    assert len(calls) == 3


def test_competitors_do_not_get_the_settings_of_mbv2kit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("OPENCV_FOR_THREADS_NUM", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = environment(sys.executable)
    assert "OMP_WAIT_POLICY" not in found
    assert "OPENCV_FOR_THREADS_NUM" not in found
    assert found["PYTHONPATH"].split(os.pathsep)[1] == "/elsewhere"


def test_another_interpreter_finds_mbv2kit_and_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    folder = Path(environment("/elsewhere/python")["PYTHONPATH"])
    assert [path.name for path in folder.iterdir()] == ["mbv2kit"]
    code = "import mbv2kit; print(mbv2kit.__version__)"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == mbv2kit.__version__
