import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.evaluation import model_in_brief
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.lab.paper.comparison import Verdict
from mbv2kit.lab.paper.published import load
from mbv2kit.lab.paper.report import section_names, summary_line, write_report
from mbv2kit.lab.paper.report_sections import SECTIONS, TABLES_OF
from mbv2kit.lab.report_page import Illustration, Section, Table, write_pages
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel

HOSTILE = "<b>a|b*_c_* & `x` [y](z)</b>"
CLASSIFIER: dict[str, Any] = {
    "backbone": {"name": "mobilenet_v2", "width": 1.0, "padding": "tf_same"},
    "heads": {"classification": {"name": "classifier", "background": True}},
    "class_names": {"classification": [str(index) for index in range(1000)]},
    "input": {"size": [224, 224]},
}


class Cells(HTMLParser):
    """Collects the texts of all table cells, and all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def make_run(folder: Path, **changes: Any) -> Path:
    """Writes the metrics of an evaluation, by default 71.9 % on 50,000 images of ImageNet."""
    model = CLASSIFIER | changes.pop("model", {})
    metrics = {"task": "classification", "dataset": "imagenet", "split": "val", "images": 50_000, "seconds": 1.0}
    folder.mkdir(parents=True)
    content = metrics | {"metrics": {"top1": 0.719, "top5": 0.91}, "per_class": {}} | changes
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "model").mkdir()
    (folder / "model" / "model.json").write_text(json.dumps(model))
    return folder


def report_of(tmp_path: Path, *sections: str) -> str:
    write_report(sections, tmp_path / "report", tmp_path / "runs")
    return (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def row_of(report: str, name: str) -> list[str]:
    line = next(line for line in report.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_published_table_is_in_a_section() -> None:
    there = {table for section in SECTIONS for table in TABLES_OF.get(section, (section,))}
    assert there == set(load())


def test_the_key_tables_selects_all_one_or_several_in_the_papers_order() -> None:
    assert section_names("all") == section_names(None) == list(SECTIONS)
    assert section_names("table4") == ["table4"]
    assert section_names(["table7", "figure1"]) == ["figure1", "table7"]


def test_an_unknown_table_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"There is no table 'tabel4' to report on. Did you mean 'table4'"):
        section_names(["figure1", "tabel4"])


def test_a_table_has_both_numbers_their_difference_and_a_verdict(tmp_path: Path) -> None:
    report = report_of(tmp_path, "table5")
    assert row_of(report, "SSD")[1:] == ["14.8", "14.78", "-0.16 (± 0.3)", "1.25", "1.259", "+0.73 (± 1)", "agrees"]
    ssdlite = row_of(report, "SSDLite")
    assert ssdlite[4:6] == ["0.35", "0.178 (1)"]
    assert ssdlite[-1] == "parameters: agrees; multiply-adds: known not to reproduce"
    assert "(1) It is twice mbv2kit's count" in report
    assert report.count("## ") == 2


def test_the_summary_counts_the_verdicts_of_the_selected_tables(tmp_path: Path) -> None:
    comparisons = write_report(["table5"], tmp_path / "report", tmp_path)
    assert [comparison.number.table for comparison in comparisons] == ["table5"] * 4
    line = "3 numbers agree, 1 are known not to reproduce, 0 are not measured, 0 disagree."
    assert summary_line(comparisons) == line
    assert line in (tmp_path / "report" / "report.md").read_text()
    assert line in (tmp_path / "report" / "report.html").read_text()


def test_table_2_is_read_from_the_network(tmp_path: Path) -> None:
    report = report_of(tmp_path, "table2")
    assert row_of(report, "backbone.layers.layer_8")[1:6] == ["bottleneck", "28 x 28 x 32", "6", "64", "2"]
    assert row_of(report, "row 5")[1:5] == ["28, 32, 6, 64, 4, 2", "28, 32, 6, 64, 4, 2", "0", "agrees"]


def test_table_3_has_the_papers_count_and_the_real_one(tmp_path: Path) -> None:
    lines = [
        line.strip("| ").split(" | ")
        for line in report_of(tmp_path, "table3").splitlines()
        if "| agrees" in line or "| known" in line
    ]
    cells = {(line[0], line[1]): line[2:] for line in lines}
    wide, narrow = 32 * 56 * 56 * 2 / 1000, 24 * 56 * 56 * 2 / 1000
    assert cells["56 x 56", "MobileNetV2"] == [
        "32 / 200",
        f"32 / {wide:.1f}",
        "+0.35 (± 0.5)",
        f"24 / {narrow:.1f}",
        "agrees",
    ]
    assert cells["112 x 112", "ShuffleNet (2x, g = 3)"][-1] == "known not to reproduce"


def test_figures_are_linked_in_markdown_and_embedded_in_html(tmp_path: Path) -> None:
    report = report_of(tmp_path, "figure1", "figure5")
    for path in re.findall(r"!\[.*\]\((.*)\)", report):
        with PillowImage.open(tmp_path / "report" / path) as image:
            assert image.width >= 1200
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert "http" not in page


def test_an_accuracy_of_the_papers_network_and_data_set_fills_the_cell(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "mine")
    report = report_of(tmp_path, "table4")
    assert row_of(report, "MobileNetV2")[1:3] == ["72.0", "71.9 on 50,000 images (2)"]
    assert f"(2) Measured on 50,000 images of imagenet, split val: {run}" in report
    assert row_of(report, "MobileNetV1")[1:3] == ["70.6", ""]
    assert "Other measurements" not in report


def test_of_several_matching_runs_the_one_on_most_images_counts(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "some", images=200, metrics={"top1": 0.9, "top5": 1.0})
    make_run(tmp_path / "runs" / "whole")
    assert row_of(report_of(tmp_path, "table4"), "MobileNetV2")[2].startswith("71.9")


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "folder"},
        {"tta": "multiscale_flip"},
        {"model": {"backbone": CLASSIFIER["backbone"] | {"width": 0.5}}},
        {"model": {"backbone": CLASSIFIER["backbone"] | {"bottleneck": "relu6"}}},
        {"model": {"backbone": {"name": "resnet_101"}}},
        {"model": {"input": {"size": [224, 192]}}},
        {"model": {"class_names": {"classification": ["cat", "dog"]}}},
    ],
)
def test_other_accuracies_are_listed_below_the_table(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = make_run(tmp_path / "runs" / "other", **changes)
    report = report_of(tmp_path, "table4")
    assert row_of(report, "MobileNetV2")[1:3] == ["72.0", ""]
    below = report[report.index("Other measurements on this machine") :]
    assert "| 71.9 |" in below
    assert str(run) in below


@pytest.mark.parametrize("damaged", ["", "[]", '{"task": "classification"}', '{"metrics": 3}'])
def test_damaged_runs_are_skipped(tmp_path: Path, damaged: str) -> None:
    run = make_run(tmp_path / "runs" / "mine")
    (run / "metrics.json").write_text(damaged)
    report = report_of(tmp_path, "table4")
    assert row_of(report, "MobileNetV2")[2] == ""
    make_run(tmp_path / "runs" / "second")
    (tmp_path / "runs" / "second" / "model" / "model.json").write_text(damaged)
    assert row_of(report_of(tmp_path, "table4"), "MobileNetV2")[2] == ""


def test_without_ablations_the_report_says_how_to_make_them(tmp_path: Path) -> None:
    report = report_of(tmp_path, "figure6", "figure7")
    assert "experiment=paper/ablation seed=0" in report
    assert "contains no run on mobilenet_v2" in report


def ablation(folder: Path, seed: int, curve: list[float], **backbone: str) -> None:
    """Writes the files of a training run with one variant of the block."""
    variant = {"name": "mobilenet_v2", "width": 0.35, "bottleneck": "linear", "shortcut": "bottleneck"} | backbone
    model = {
        "backbone": variant,
        "heads": {"segmentation": {"name": "deeplab_v3"}},
        "class_names": {"segmentation": ["sky", "road"]},
    }
    make_run(folder, task="segmentation", dataset="voc", metrics={"mIoU": curve[-1]}, model=model)
    config = {
        "dataset": {"name": "voc", "root": "/data/streets"},
        "backbone": variant,
        "input": {"size": [33, 33]},
        "trainer": {"max_epochs": len(curve)},
        "seed": seed,
        "run_dir": str(folder),
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    lines = [f"{epoch},{value}" for epoch, value in enumerate(curve)]
    (folder / "metrics.csv").write_text("epoch,val/mIoU\n" + "\n".join(lines) + "\n")


def test_runs_that_differ_only_in_the_block_become_the_curves_of_figure_6(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    ablation(runs / "linear_0", 0, [0.1, 0.3])
    ablation(runs / "linear_1", 1, [0.1, 0.4])
    ablation(runs / "relu6", 0, [0.1, 0.2], bottleneck="relu6")
    # Trained for more epochs, so a different experiment.
    ablation(runs / "none", 0, [0.1, 0.2, 0.3], shortcut="none")
    report = report_of(tmp_path, "figure6")
    assert "segmentation on voc in streets, mobilenet_v2 of width 0.35, 33 x 33 pixels, 2 epochs" in report
    assert row_of(report, "linear bottleneck")[1:] == ["2", "35.0", "30.0 to 40.0"]
    assert row_of(report, "ReLU6 in bottleneck")[1:] == ["1", "20.0", ""]
    assert (tmp_path / "report" / "images" / "figure_6a_1.png").is_file()
    assert not (tmp_path / "report" / "images" / "figure_6b_1.png").exists()


def test_the_memory_of_every_network_is_listed(tmp_path: Path) -> None:
    report = report_of(tmp_path, "memory")
    # The image in bytes, the input of block 2 and its folded expansion: 16 and 96 channels at 112 x 112.
    (line,) = [line for line in report.splitlines() if line.startswith("| Table 4 | MobileNetV2 |")]
    assert "| 5,880 |" in line
    split = row_of(report, "split, first convolution fused into the first block")
    # In floats: block 2's input, expansion and filtered map.
    assert split[1] == f"{(16 * 112**2 + 96 * 112**2 + 96 * 56**2) * 4 / 1024:,.0f}"
    assert len([line for line in report.splitlines() if re.match(r"\| Table [467] \|", line)]) == 20


@pytest.fixture
def hostile_pages(tmp_path: Path) -> Path:
    image = tmp_path / "image.png"
    PillowImage.fromarray(np.zeros((2, 2, 3), np.uint8)).save(image)
    table = Table(columns=[HOSTILE, f">{HOSTILE}"], rows=[[HOSTILE, "1"]], title=HOSTILE, notes=[HOSTILE])
    write_pages(tmp_path, HOSTILE, [Section(HOSTILE, [HOSTILE, table, Illustration(image, HOSTILE)])])
    return tmp_path


def test_special_characters_are_escaped_in_html(hostile_pages: Path) -> None:
    page = Cells((hostile_pages / "report.html").read_text())
    assert "b" not in page.tags
    assert page.cells[0] == HOSTILE
    assert page.cells[2] == HOSTILE


def test_special_characters_are_escaped_in_markdown(hostile_pages: Path) -> None:
    text = (hostile_pages / "report.md").read_text()
    assert "<" not in text
    escaped = r"&lt;b&gt;a\|b\*\_c\_\* &amp; \`x\` \[y\](z)&lt;/b&gt;"
    assert text.count(escaped) == 10
    assert f"| {escaped} | 1 |" in text
    assert "| --- | ---: |" in text


def test_names_with_underscores_stay_readable_in_markdown() -> None:
    table = Table(columns=["name"], rows=[["mobilenet_v2_1.4"]])
    assert "| mobilenet_v2_1.4 |" in table.to_markdown()


def test_every_verdict_has_a_column_in_the_summary(tmp_path: Path) -> None:
    report = report_of(tmp_path, "table5")
    assert row_of(report, "")[1:] == [str(verdict) for verdict in Verdict]


def test_an_evaluation_may_contain_its_models_description(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "eval")
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"model": model_in_brief(CLASSIFIER, "classification")}))
    (run / "model" / "model.json").unlink()
    assert row_of(report_of(tmp_path, "table4"), "MobileNetV2")[2].startswith("71.9")


def test_figure_7_shows_the_newest_run_of_the_papers_variant(tmp_path: Path) -> None:
    backbone = {"name": "mobilenet_v2", "width": 0.35}
    spec = ModelSpec(
        backbone=backbone,
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": ("circle", "square", "triangle")},
        input=Preprocess((32, 32)),
    )
    run = make_run(tmp_path / "runs" / "mine", dataset="shapes", model=spec.to_dict())
    VisionModel(spec).save(run / "model")
    dataset = {"name": "shapes", "root": None, "size": 64, "val_count": 3}
    config = {"dataset": dataset, "backbone": backbone, "input": {"size": [32, 32]}, "trainer": {"max_epochs": 1}}
    (run / "config.yaml").write_text(json.dumps(config))
    make_run(tmp_path / "runs" / "newer", model={"backbone": backbone | {"bottleneck": "relu6"}})
    report = report_of(tmp_path, "figure7")
    assert f"Figure 7 by mbv2kit: {run}, 3 images of shapes, split val." in report
    # Layer 3 expands the 8 channels of width 0.35 to 48.
    assert row_of(report, "layer_3")[1:3] == ["48", "8"]
    assert len([line for line in report.splitlines() if line.startswith("| layer_")]) == 16
