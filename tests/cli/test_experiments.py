"""The files in ``conf/experiment``: anyone can run them, and each says how."""

from pathlib import Path

import pytest

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.cli.overrides import flatten
from mbv2kit.training.parts import training_parts

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "conf" / "experiment"
NAMES = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in sorted(FOLDER.rglob("*.yaml"))]
RECIPES = {"classification": "folder", "detection": "coco", "segmentation": "voc"}


def test_no_file_names_a_folder_of_its_authors() -> None:
    files = [path for place in ("conf", "mbv2kit") for path in (ROOT / place).rglob("*") if path.is_file()]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".yaml")}
    assert [str(path) for path, text in texts.items() if "../shared" in text or "MBV2KIT_SHARED" in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_header_of_an_experiment_has_its_command(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    command = f"mbv2kit train experiment={name}"
    (line,) = [line for line in header if line.startswith(f"#   {command}")][:1]
    if not name.startswith(("shapes/", "qat/shapes", "bccd/cells")):
        assert "dataset.root=" in line


@pytest.mark.parametrize("task", RECIPES)
def test_a_recipe_for_your_own_data_needs_nothing_but_the_data(task: str) -> None:
    register_parts(ROOT / "conf", training_parts())
    config = compose_config(ROOT / "conf", "train", [f"experiment=recipes/finetune_{task}"])
    assert (config.task.name, config.dataset.name, config.dataset.root) == (task, RECIPES[task], None)
    assert config.weights == "torchvision:mobilenet_v2"


@pytest.mark.parametrize(
    ("name", "base", "changed"),
    [
        ("bccd/finetune", "recipes/finetune_detection", "input head augment"),
        ("bccd/detection", "bccd/finetune", "weights backbone input optimizer trainer"),
        ("camvid/finetune", "recipes/finetune_segmentation", "input head augment"),
        ("camvid/segmentation", "recipes/finetune_segmentation", "weights backbone input augment optimizer trainer"),
        ("shapes/finetune", "recipes/finetune_classification", "input augment loader trainer"),
    ],
)
def test_an_example_keeps_the_settings_of_its_recipe_but_those_of_its_own(name: str, base: str, changed: str) -> None:
    register_parts(ROOT / "conf", training_parts())
    ours, theirs = (
        flatten(compose_config(ROOT / "conf", "train", [f"experiment={each}", "run_dir=run"])) for each in (name, base)
    )
    different = {key.partition(".")[0] for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert different - {"dataset"} == set(changed.split())
