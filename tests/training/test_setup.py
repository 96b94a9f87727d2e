import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from mbv2kit.cli.logs import log_to, set_up_logging
from mbv2kit.errors import UserError
from mbv2kit.training.setup import check_numbers, model_spec

Compose = Callable[..., DictConfig]
Change = Callable[[str], Any]


@pytest.fixture(scope="module")
def changed(tiny: Compose) -> Change:
    """Returns a configuration with one key changed; composing takes half a second, so it is done once."""
    base = tiny(Path("unused"))

    def change(override: str) -> Any:
        return OmegaConf.to_container(OmegaConf.merge(base, OmegaConf.from_dotlist([override])), resolve=True)

    return change


def test_the_file_holds_what_was_said_before_it_was_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "run" / "train.log"
    set_up_logging()
    logging.getLogger("mbv2kit.anything").info("before")
    assert not file.parent.exists()
    log_to(file)
    logging.getLogger("mbv2kit.anything").warning("after %d", 2)
    lines = file.read_text().splitlines()
    assert [line.partition(",")[2][4:] for line in lines] == ["INFO before", "WARNING after 2"]
    said = capfd.readouterr()
    assert said.out == ""
    assert "before" in said.err
    assert "after 2" in said.err


def test_a_second_run_of_a_process_writes_to_its_own_file_and_a_resumed_one_to_the_old(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two"), ("a", "three")):
        set_up_logging()
        log_to(tmp_path / name)
        logging.getLogger("mbv2kit").info(text)
    assert [line.split()[-1] for line in (tmp_path / "a").read_text().splitlines()] == ["one", "three"]
    assert [line.split()[-1] for line in (tmp_path / "b").read_text().splitlines()] == ["two"]


def test_libraries_chatter_is_quiet_and_their_other_warnings_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").info("GPU available: False")
    assert capfd.readouterr().err == ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        set_up_logging()
        warnings.warn("Found 216 module(s) in eval mode at the start of training. This may lead to", stacklevel=1)
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(", stacklevel=1)
        warnings.warn("Checkpoint directory /runs/a exists and is not empty.", stacklevel=1)
        warnings.warn("something new", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something new"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=0", r"trainer\.max_epochs must be a whole number from 1 up, got 0"),
        ("trainer.max_epochs=-1", "trainer.max_epochs must be"),
        ("trainer.val_every_n_epochs=0", "trainer.val_every_n_epochs must be a whole number from 1 up"),
        ("trainer.limit_train_batches=0.5", "trainer.limit_train_batches must be a whole number from 1 up, got 0.5"),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches must be a whole number from 1 up"),
        ("trainer.limit_val_batches=-1", "trainer.limit_val_batches must be a whole number from 0 up"),
        ("trainer.early_stopping_patience=often", "trainer.early_stopping_patience must be a whole number"),
        ("trainer.gradient_clip_norm=0", "trainer.gradient_clip_norm must be above 0, or null for no limit, got 0"),
        ("ema.decay=1", "ema.decay must be at least 0 and below 1, or null for no average, got 1"),
        ("seed=-1", "seed must be a whole number from 0 up, got -1"),
    ],
)
def test_a_number_out_of_range_is_told(changed: Change, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_numbers(changed(override))


@pytest.mark.parametrize(
    "override",
    [
        "trainer.limit_train_batches=3",
        "trainer.limit_val_batches=0",
        "trainer.early_stopping_patience=1",
        "trainer.gradient_clip_norm=0.5",
        "ema.decay=null",
        "ema.decay=0",
    ],
)
def test_a_number_in_range_is_not(changed: Change, override: str) -> None:
    check_numbers(changed(override))


def test_the_spec_holds_what_the_config_says(tiny: Compose) -> None:
    overrides = ("normalisation.mean=[1,2,3]", "normalisation.std=[4,5,6]", "input.resize=letterbox")
    config: Any = OmegaConf.to_container(tiny(Path("unused"), *overrides, task="detection"), resolve=True)
    spec = model_spec(config, ("cat", "dog"), {"run": "x"})
    assert (spec.mean, spec.std, spec.origin) == ((1, 2, 3), (4, 5, 6), {"run": "x"})
    assert spec.class_names == {"detection": ("cat", "dog")}
    assert spec.heads == {"detection": config["head"]}
    assert (spec.backbone["width"], spec.input.resize) == (0.35, "letterbox")


@pytest.mark.parametrize("override", ["normalisation.std=[1,0,1]", "normalisation.mean=[1,2]"])
def test_a_wrong_normalization_is_told(changed: Change, override: str) -> None:
    with pytest.raises(UserError, match="normalization needs three means and three stds above 0"):
        model_spec(changed(override), ("cat",), {})
