"""Unknown keys: what a user of other tools, or of quick fingers, is told."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.cli.overrides import flatten
from mbv2kit.cli.suggestions import suggest, unknown_flag
from mbv2kit.errors import UserError
from mbv2kit.training.parts import training_parts

CONF = Path(__file__).parents[2] / "conf"


@cache
def keys(tool: str, *overrides: str) -> tuple[str, ...]:
    register_parts(CONF, training_parts())
    return tuple(flatten(compose_config(CONF, tool, overrides)))


TRAIN = {
    "epochs": "trainer.max_epochs",
    "batch": "loader.batch_size",
    "batch_size": "loader.batch_size",
    "imgsz": "input.size",
    "lr": "optimizer.lr",
    "lr0": "optimizer.lr",
    "learning_rate": "optimizer.lr",
    "workers": "loader.workers",
    "num-workers": "loader.workers",
    "device": "trainer",
    "devices": "trainer.devices",
    "model": "backbone",
    "data": "dataset.root",
    "width": "backbone.width",
    "patience": "trainer.early_stopping_patience",
    "project": "run_dir",
    "name": "run_dir",
    "amp": "trainer.precision",
    "pretrained": "weights",
    "checkpoint": "weights",
    "conf": "head.score_threshold",
    "iou": "head.nms_iou",
    "momentum": None,
    "trainer.seed": ("seed", "dataset.seed"),
    "hyp.lr0": "optimizer.lr",
    "epohcs": "trainer.max_epochs",
    "max_epoch": "trainer.max_epochs",
    "outptu_dir": "run_dir",
    "norm_momentum": ("head.norm_momentum", "backbone.norm_momentum"),
}
INFER = {
    "conf": "min_score",
    "batch": "batch_size",
    "model": "checkpoint",
    "workers": "threads",
    "project": "output",
    "half": "precision",
    "save": "save_images",
    "epochs": None,
    "lr": None,
    "imgsz": None,
}
EVAL = {"model": "checkpoint", "batch": "loader.batch_size", "data": "dataset", "val_split": "split"}
EXPORT = {"model": "checkpoint", "imgsz": "size", "half": "precision", "check_images": "check_pictures"}
CONVERT = {"model": "source", "weights": "source", "license": "licence", "names": "class_names"}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (lambda: keys("train", "task=detection"), TRAIN),
        (lambda: keys("infer"), INFER),
        (lambda: keys("eval"), EVAL),
        (lambda: keys("export"), EXPORT),
        (lambda: keys("convert", "source=a", "output=b"), CONVERT),
    ],
    ids=["train", "infer", "eval", "export", "convert"],
)
def test_the_names_of_other_tools_lead_to_the_key(
    known: Callable[[], tuple[str, ...]], expected: dict[str, str | tuple[str, ...] | None]
) -> None:
    found = {name: suggest(name, known(), "") for name in expected}
    for name, meant in expected.items():
        if meant is None:
            assert not found[name].startswith(" Did you mean"), name
        else:
            several = (meant,) if isinstance(meant, str) else meant
            assert found[name] == f" Did you mean {' or '.join(map(repr, several))}?", name


def test_the_data_set_of_an_evaluation_is_its_folder_as_soon_as_it_is_named() -> None:
    assert suggest("data", keys("eval", "dataset=voc"), "") == " Did you mean 'dataset.root'?"


@settings(deadline=None)  # the first example composes the configuration
@given(st.text("abcdeimnopstz_.", min_size=1, max_size=12))
def test_only_keys_of_the_command_are_suggested(name: str) -> None:
    known = keys("infer")
    text = suggest(name, known, "")
    words = text.removeprefix(" Did you mean ").removeprefix(" Known: ").rstrip("?.").replace("'", "")
    assert set(words.replace(" or ", ", ").split(", ")) <= set(known)


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--epochs", "Write trainer.max_epochs=VALUE."),
        ("--batch-size=16", "Write loader.batch_size=VALUE."),
        ("--lr", "Write optimizer.lr=VALUE."),
        ("--seed", "Write seed=VALUE."),
        ("--hepl", "Did you mean '--help'?"),
        ("--multi-run", "Did you mean '--multirun'?"),
        ("-b", "Settings are written key=value; --help lists them."),
        ("--nonsense", "Settings are written key=value; --help lists them."),
    ],
)
def test_a_flag_of_other_tools_leads_to_the_key(argument: str, hint: str) -> None:
    flag = argument.partition("=")[0]
    found = unknown_flag(argument, ["--help", "-h", "--multirun", "-m"], keys("train"))
    assert found == f"There is no flag '{flag}'. {hint}"


def test_the_command_line_says_it_in_one_sentence() -> None:
    register_parts(CONF, training_parts())
    with pytest.raises(UserError) as error:
        compose_config(CONF, "train", ["epochs=3"])
    assert str(error.value) == "There is no key 'epochs'. Did you mean 'trainer.max_epochs'?"
