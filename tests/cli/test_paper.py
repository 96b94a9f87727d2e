"""`mbv2kit paper`: the report, the line that it prints, and the exit code."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from mbv2kit.commands.paper import job
from mbv2kit.lab.paper import published

Run = Callable[..., int]


def test_the_report_is_written_where_output_says(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("paper", job, "tables=[table5,table1]", "output=mine") == 0
    out = capsys.readouterr().out
    assert out.startswith("8 numbers agree, 1 are known not to reproduce, 1 are not measured, 0 disagree.\n")
    report = Path("mine/report.md").read_text()
    assert [line for line in report.splitlines() if line.startswith("## ")] == [
        "## Summary",
        "## Table 1 and Section 3: the bottleneck block",
        "## Table 5: SSD and SSDLite on MobileNetV2, without the backbone",
    ]
    assert Path("mine/report.html").is_file()


def test_help_names_every_table(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("paper", job, "--help") == 0
    shown = capfd.readouterr().out
    assert "mbv2kit paper tables=[table4,figure5,memory] output=report" in shown
    assert "  runs=outputs " in shown


def test_without_output_a_folder_of_the_time_is_made(run: Run) -> None:
    assert run("paper", job, "tables=table1") == 0
    assert len(list(Path("outputs/paper").glob("*/report.html"))) == 1


def test_a_wrong_number_is_named_and_makes_the_exit_code_1(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = published.PUBLISHED.read_text(encoding="utf-8")
    wrong = tmp_path / "published.yaml"
    wrong.write_text(text.replace("params: [14.8, 0.003]", "params: [13.8, 0.003]"), encoding="utf-8")
    monkeypatch.setattr(published, "PUBLISHED", wrong)
    assert run("paper", job, "tables=table5", "output=mine") == 1
    line = "table5/ssd/params: published 13.8 M, mbv2kit 14.78 (+7.08%, tolerance 0.30%)"
    assert line in capsys.readouterr().out
    assert "table5/ssd/params: published 13.8 M" in Path("mine/report.md").read_text()


def test_an_unknown_table_is_refused_with_the_nearest(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("paper", job, "tables=[table4,figur5]") == 2
    assert capsys.readouterr().err == "error: There is no table 'figur5' to report on. Did you mean 'figure5'?\n"
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_the_whole_report_has_every_table(run: Run) -> None:
    assert run("paper", job, "output=mine") == 0
    report = Path("mine/report.md").read_text()
    for name in (
        "Figure 1",
        *(f"Table {number}" for number in range(1, 8)),
        "Figure 5",
        "Figure 6",
        "Section 5.1",
        "Figure 7",
    ):
        assert f"\n## {name}" in report


def test_a_job_takes_the_configuration_of_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert job(DictConfig({"tables": "table1", "output": "there", "runs": "outputs"})) == 0
    assert (tmp_path / "there" / "report.md").is_file()
