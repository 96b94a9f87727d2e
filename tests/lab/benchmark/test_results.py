import json
from pathlib import Path

import pytest

from mbv2kit.errors import UserError
from mbv2kit.lab.benchmark.results import Results, Row
from tests.lab.benchmark.results_for_tests import results


def test_results_survive_a_round_trip_through_json(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    before = results()
    before.save(path)
    assert Results.load(path) == before
    assert isinstance(Results.load(path).cases[0].rows[0], Row)


def test_a_run_with_other_groups_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    results().save(path)
    values = json.loads(path.read_text())
    values["cases"][0]["rows"][0]["group"] = "peer"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"is no result of this version's benchmark.*unknown group 'peer'"):
        Results.load(path)
