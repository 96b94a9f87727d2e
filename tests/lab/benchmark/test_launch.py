import re
import sys

import pytest

from mbv2kit.lab.benchmark.launch import fill, run_command
from mbv2kit.lab.benchmark.worker import CompetitorError


def test_a_process_is_timed_and_its_memory_recorded() -> None:
    hold = "import time; data = bytearray(100_000_000); time.sleep(0.3)"
    found = run_command(["{python}", "-c", hold], {"python": sys.executable})
    assert found.seconds > 0.3
    assert 100 < found.megabytes < 200
    assert found.series
    assert all(0 < seconds < found.seconds and megabytes <= 200 for seconds, megabytes in found.series)


def test_output_goes_to_a_temporary_folder() -> None:
    code = "import sys, pathlib; pathlib.Path(sys.argv[1], 'made').mkdir()"
    for _ in range(2):
        run_command(["{python}", "-c", code, "{output}"], {"python": sys.executable})


def test_a_failed_process_reports_its_last_line() -> None:
    with pytest.raises(CompetitorError, match=r"^ended with code 1: ValueError: no good$"):
        run_command([sys.executable, "-c", "raise ValueError('no good')"], {})


def test_a_missing_program_is_named() -> None:
    with pytest.raises(CompetitorError, match=re.escape("/no/such/program: No such file or directory")):
        run_command(["/no/such/program"], {})


def test_only_known_names_in_braces_are_replaced() -> None:
    assert fill("output={output}/{a.onnx} {other}", {"output": "/o", "a.onnx": "/a"}) == "output=/o//a {other}"
