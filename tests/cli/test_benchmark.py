import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mbv2kit.commands.benchmark import job
from tests.lab.benchmark.results_for_tests import results

Run = Callable[..., int]
QUICK = ("rounds=2", "slice=0", "warm_up=0", "threads=1")


def test_a_job_writes_numbers_tables_and_a_plot(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty torch, which imports instantly.
    (tmp_path / "packages" / "torch").mkdir(parents=True)
    (tmp_path / "packages" / "torch" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    cores = os.sched_getaffinity(0)
    arguments = ("jobs=cold_start", "contenders=[import torch]", "pictures=nowhere", "output=found", *QUICK)
    assert run("benchmark", job, *arguments) == 0
    assert os.sched_getaffinity(0) == cores
    found = json.loads(Path("found/benchmark.json").read_text())
    (case,) = found["cases"]
    (row,) = case["rows"]
    assert (row["name"], row["problem"], len(row["rounds"]["process"])) == ("import torch", None, 2)
    assert found["machine"]["threads"] == 1
    assert found["settings"]["rounds"] == 2
    assert "| import torch | library | fp32 |" in Path("found/benchmark.md").read_text()
    assert Path("found/cold_start.png").is_file()
    assert "Results: found/benchmark.md" in capsys.readouterr().out


def test_tables_of_an_earlier_run_go_into_a_page(run: Run) -> None:
    Path("over").mkdir()
    results().save(Path("over/benchmark.json"))
    Path("page.md").write_text("Fast.\n\n<!-- benchmark: job, case -->\n<!-- /benchmark -->\n")
    assert run("benchmark", job, "results=over/benchmark.json", "page=page.md") == 0
    assert "| mbv2kit fp32 | mbv2kit | fp32 | 4 (4-4.5) | 2 (2-4) |" in Path("page.md").read_text()
    assert Path("over/benchmark.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jobs=[classification,files_]"], "There is no job 'files_'. Did you mean 'files'?"),
        (["threads=1024"], "threads must be in 1.."),
        (["rounds=0"], "rounds must be a whole number from 1 to 10,000, got 0."),
        (["slice=-1"], "slice must be a number from 0 to 3,600, got -1."),
        (
            ["python.timm=/no/python"],
            "python.timm: /no/python is no interpreter; give the path of",
        ),
        (["models.classification=nowhere"], "nowhere is no model folder: it has no model.json."),
        (
            ["jobs=cold_start", "contenders=[import_torch]"],
            "no competitor of these jobs matches 'import_torch'.",
        ),
        (["results=nowhere.json"], "nowhere.json cannot be read (No such file or directory)"),
        (["results=over.json"], "over.json is no result of this version's benchmark: KeyError('cases')."),
        (["page=nowhere.md"], "page=nowhere.md cannot be read (No such file or directory)"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_measured(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("over.json").write_text("{}")
    assert run("benchmark", job, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert not Path("outputs").exists()
