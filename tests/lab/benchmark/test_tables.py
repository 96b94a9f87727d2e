from pathlib import Path

import pytest
from PIL import Image

from mbv2kit.errors import UserError
from mbv2kit.lab.benchmark.plot import draw
from mbv2kit.lab.benchmark.results import CaseResult, Results, Row
from mbv2kit.lab.benchmark.tables import fill_page, peak_rates, write_page, write_tables
from tests.lab.benchmark.results_for_tests import case, results


def cells(table: str) -> dict[str, list[str]]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in rows}


def test_a_table_has_medians_quartiles_and_paired_ratios() -> None:
    found = cells(write_tables(results())["job, case"])
    assert found["competitor"] == ["group", "precision", "whole, ms", "speed-up", "network, ms", "speed-up"]
    assert found["theirs"] == ["library", "fp32", "8 (8-19)", "1", "", ""]
    # 8, 8, 30 over 4, 4, 5 is 2, 2, 6.
    assert found["mbv2kit fp32"] == ["mbv2kit", "fp32", "4 (4-4.5)", "2 (2-4)", "", ""]
    assert found["runtime a"][4:] == ["4", "2 (2-4.75)"]
    assert found["absent"][2:] == ["skipped: absent not installed in python", "", "", ""]


def peaks_and_network() -> Results:
    def product(name: str, seconds: float) -> Row:
        return Row(name=name, group="library", precision="fp32", rounds={"whole": [seconds]}, madds=1_000_000_000)

    base = {"job": "classification", "title": "", "unit": "s", "notes": ()}
    peak = CaseResult(**base, name="peak", baseline=("a", "whole"), rows=[product("a", 0.02), product("b", 0.01)])  # type: ignore[arg-type]
    network = Row(name="net", group="mbv2kit", precision="fp32", rounds={"whole": [0.02]}, madds=300_000_000)
    unknown = Row(name="int8 net", group="mbv2kit", precision="int8", rounds={"whole": [0.02]}, madds=300_000_000)
    one = CaseResult(**base, name="batch 1", baseline=("net", "whole"), rows=[network, unknown])  # type: ignore[arg-type]
    return Results(machine={}, settings={}, cases=[peak, one])


def test_a_network_is_compared_with_the_fastest_matrix_product_of_its_precision() -> None:
    found = peaks_and_network()
    assert peak_rates(found) == pytest.approx({"fp32": 1e11})
    table = cells(write_tables(found)["classification, batch 1"])
    # 0.3 billion multiply-adds in 20 ms are 30 GFLOP/s, of 200.
    assert table["net"][-2:] == ["30", "15%"]
    assert table["int8 net"][-2:] == ["30", ""]


def test_memory_has_no_speed_up() -> None:
    memory = case()
    rows = [Row(name="mbv2kit", group="mbv2kit", precision="fp32", rounds={"5000 images": [212.34]})]
    found = CaseResult(
        job="memory",
        name="peak",
        title="",
        unit="MB",
        baseline=("mbv2kit", "5000 images"),
        notes=memory.notes,
        rows=rows,
    )
    table = cells(write_tables(Results(machine={}, settings={}, cases=[found]))["memory, peak"])
    assert table["competitor"][2:] == ["5000 images, MB"]
    assert table["mbv2kit"][2:] == ["212"]


def test_filling_a_page_replaces_its_tables_and_keeps_its_text() -> None:
    page = "Before.\n\n<!-- benchmark: job, case -->\nold\n<!-- /benchmark -->\n\nAfter.\n"
    filled = fill_page(page, results())
    assert filled.startswith("Before.\n\n<!-- benchmark: job, case -->\n\n**Some work**")
    assert filled.endswith("\n\n<!-- /benchmark -->\n\nAfter.\n")
    assert "old" not in filled
    assert fill_page(filled, results()) == filled
    assert write_tables(results())["job, case"] in write_page(results())


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("No place.", "The page has no place for a table; mark one with <!-- benchmark: machine -->"),
        (
            "<!-- benchmark: job, cas -->\n<!-- /benchmark -->",
            "The page has a place for 'job, cas', which this run did not measure. Did you mean 'job, case'?",
        ),
    ],
)
def test_a_page_without_matching_places_is_refused(page: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        fill_page(page, results())
    assert str(error.value).startswith(message)


def test_the_plot_has_a_bar_per_competitor(tmp_path: Path) -> None:
    (path,) = draw(results(), tmp_path)
    assert path == tmp_path / "job.png"
    with Image.open(path) as image:
        assert image.width >= 1200
    assert draw(Results(machine={}, settings={}, cases=[]), tmp_path) == []


def test_the_plot_shows_memory_over_time(tmp_path: Path) -> None:
    series = {"20": [(0.25, 80.0), (0.5, 90.0)], "5000": [(0.25, 80.0), (0.5, 95.0)]}
    row = Row(name="mbv2kit", group="mbv2kit", precision="fp32", rounds={"20 images": [95.0]}, facts={"series": series})
    found = CaseResult(
        job="memory", name="peak", title="Memory", unit="MB", baseline=("mbv2kit", ""), notes=(), rows=[row]
    )
    assert draw(Results(machine={}, settings={}, cases=[found]), tmp_path) == [tmp_path / "memory.png"]
