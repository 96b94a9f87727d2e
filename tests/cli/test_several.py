"""Sets of parts and mappings on the command line and in experiments, as a job gets them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from mbv2kit.cli.mappings import gather_mappings
from mbv2kit.cli.several import set_name
from mbv2kit.heads import HEADS

Run = Callable[..., int]

RECIPE = """# @package _global_
defaults:
  - override /task: multitask
  - override /heads: classifier+deeplab_v3
heads: {segmentation: {channels: 16}}
loss_weights: {segmentation: 2}
"""


@pytest.fixture
def compose(run: Run) -> Callable[..., DictConfig]:
    """Returns the configuration that a job gets."""

    def call(*keys: str) -> DictConfig:
        seen: list[DictConfig] = []
        assert run("train", seen.append, *keys) == 0
        return seen[0]

    return call


@pytest.mark.parametrize(
    ("lines", "gathered"),
    [
        (["a.b=1", "x=2", "a.c=3"], ["x=2", "++a={b:1,c:3}"]),
        (["a={b:1}", "a.c=3"], ["++a={b:1,c:3}"]),
        (["a={}", "a.c=3"], ["++a={c:3}"]),
        (["a.b=1,2", "a.c=3,4"], ["++a={b:1,c:3},{b:1,c:4},{b:2,c:3},{b:2,c:4}"]),
        (["a=null", "x.b=1"], ["a=null", "x.b=1"]),
        (["a={b:1},{b:2}"], ["a={b:1},{b:2}"]),
    ],
)
def test_the_names_of_a_mapping_are_gathered(lines: list[str], gathered: list[str]) -> None:
    assert gather_mappings(lines, {"a"}) == gathered


def test_a_set_has_one_name_whatever_its_order() -> None:
    assert set_name(HEADS, {"segmentation": "deeplab_v3", "classification": "classifier"}) == "classifier+deeplab_v3"


def test_a_set_can_be_left_out_by_name(compose: Callable[..., DictConfig]) -> None:
    assert compose("task=multitask", "datasets=null", "run_dir=run").datasets is None
    # Also where another set was a choice before.
    assert compose("task=multitask", "datasets.detection=shapes", "run_dir=run").datasets.detection.name == "shapes"
    assert compose("task=multitask", "datasets=null", "run_dir=run").datasets is None


def test_an_experiment_weighs_heads(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE)
    assert compose("experiment=./mine.yaml", "run_dir=run").loss_weights == {"segmentation": 2}
    assert compose("experiment=./mine.yaml", "loss_weights=uncertainty", "run_dir=run").loss_weights == "uncertainty"
    both = compose("experiment=./mine.yaml", "loss_weights.classification=0.5", "run_dir=run").loss_weights
    assert both == {"segmentation": 2, "classification": 0.5}


def test_weights_of_heads_that_are_left_out_go_with_them(compose: Callable[..., DictConfig]) -> None:
    keys = ("experiment=shapes/multitask", "heads=[classifier,ssdlite]", "run_dir=run")
    assert list(compose(*keys).loss_weights) == ["classification"]
    # What the command line gives stays, and is refused later.
    assert list(compose(*keys, "loss_weights.segmentation=2").loss_weights) == ["classification", "segmentation"]


@pytest.mark.parametrize(
    ("content", "heads"),
    [
        ("heads: [ssd, classifier]", {"classification": "classifier", "detection": "ssd"}),
        (
            "heads: {kind: classifier, color: {name: classifier, dropout: 0.1}}",
            dict.fromkeys(("kind", "color"), "classifier"),
        ),
    ],
)
def test_an_experiment_names_heads_as_a_command_line_does(
    compose: Callable[..., DictConfig], tmp_path: Path, content: str, heads: dict[str, str]
) -> None:
    named = f"{content}\ndatasets: {{{next(iter(heads))}: {{name: shapes, size: 80}}}}\n"
    (tmp_path / "mine.yaml").write_text(RECIPE.partition("  - override /heads")[0] + named)
    config = compose("experiment=./mine.yaml", "run_dir=run")
    assert {name: head.name for name, head in config.heads.items()} == heads
    assert config.datasets[next(iter(heads))].size == 80
    if "color" in heads:
        assert (config.heads.color.dropout, config.heads.kind.dropout) == (0.1, 0.2)
    # The command line chooses others, and options of its own.
    other = compose("experiment=./mine.yaml", "heads=[classifier,deeplab_v3]", "datasets=null", "run_dir=run")
    assert list(other.heads) == ["classification", "segmentation"]


@pytest.mark.parametrize(
    ("keys", "heads", "datasets"),
    [
        ("", "kind color", {"kind": "one", "color": "two"}),
        # A part that is named alone is added or exchanged.
        ("datasets.color=folder datasets.color.root=three", "kind color", {"kind": "one", "color": "three"}),
        ("heads.more=ssdlite", "kind color more", {"kind": "one", "color": "two"}),
        # A set replaces the recipe's, whose data sets go with its heads.
        ("heads={color:classifier,more:classifier}", "color more", {"color": "two"}),
        ("datasets=null", "kind color", None),
        ("heads=[classifier,ssd] datasets=null", "classification detection", None),
    ],
)
def test_a_command_line_changes_the_sets_of_a_recipe(
    compose: Callable[..., DictConfig], tmp_path: Path, keys: str, heads: str, datasets: dict[str, str] | None
) -> None:
    content = "heads: {kind: classifier, color: classifier}\n"
    content += "datasets: {kind: {name: folder, root: one}, color: {name: folder, root: two}}\n"
    (tmp_path / "mine.yaml").write_text(RECIPE.partition("  - override /heads")[0] + content)
    config = compose("experiment=./mine.yaml", *keys.split(), "run_dir=run")
    assert " ".join(config.heads) == heads
    found = None if config.datasets is None else {name: each.root for name, each in config.datasets.items()}
    assert found == datasets


def test_a_head_that_is_named_alone_is_exchanged_in_the_set_of_the_task(compose: Callable[..., DictConfig]) -> None:
    config = compose("task=multitask", "heads.detection=ssd", "run_dir=run")
    assert [head.name for head in config.heads.values()] == ["classifier", "ssd", "deeplab_v3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "heads: [ssd, ssdlite]",
            "'heads: ['ssd', 'ssdlite']' has 2 heads for detection; give them names of their own",
        ),
        ("heads: {color: klassifier}", "There is no head 'klassifier'. Did you mean 'classifier'?"),
        ("heads: {segmentation: {channel: 16}}", "There is no key 'heads.segmentation.channel'. Did you mean"),
        ("loss_weights: {segmentation: -2}", "loss_weights must be a set of keys, each with a number"),
    ],
)
def test_a_slip_in_an_experiment_names_the_file(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "mine.yaml").write_text(f"{RECIPE.partition('heads: {')[0]}{content}\n")
    assert run("train", lambda config: 0, "experiment=./mine.yaml", "run_dir=run") == 2
    assert f"error: ./mine.yaml: {message}" in capsys.readouterr().err.replace("\n", " ")
