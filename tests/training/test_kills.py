"""A run that is killed without warning and resumed ends as one that was not; python -m tests.training.kills has all."""

from pathlib import Path

import pytest

from mbv2kit.data.sampling import evenly_spaced
from tests.training.kills import Killer


@pytest.mark.slow
def test_a_run_that_is_killed_at_its_files_ends_as_one_that_was_not(tmp_path: Path) -> None:
    killer = Killer("classification", tmp_path, ["export=false"])
    assert killer.accesses > 20
    numbers = [1 + index for index in evenly_spaced(killer.accesses, 6)]
    assert {number: killer.kill_at_access(number) for number in numbers} == dict.fromkeys(numbers)
