"""Every key of every command has a kind: any value is a valid start, or one sentence that names the key."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mbv2kit.backbones import BACKBONES
from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.cli.keys import check_config, keys_of_command
from mbv2kit.commands import COMMANDS
from mbv2kit.data.augment import create_augment
from mbv2kit.errors import UserError
from mbv2kit.exporting.options import ExportOptions
from mbv2kit.heads import HEADS, create_head
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.loading import Request
from mbv2kit.inference.runtimes import RUNTIMES
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.registry import Registry
from mbv2kit.schema import is_section, keys_of
from mbv2kit.training.finetune import FineTuning
from mbv2kit.training.optimizers import create_optimizer
from mbv2kit.training.parts import training_parts
from mbv2kit.training.qat import create_qat
from mbv2kit.training.schedules import create_schedule

NAN, INF = float("nan"), float("inf")
NUMBERS = [-1, 0, -0.5, 1, 10**30, 1e30, 10**400, NAN, INF, -INF]
LISTS = [[], [1], ["a"], [None], [NAN, NAN], [1e5, 1e5], [[1]], {}, {"a": 1}]
VALUES: list[Any] = [*NUMBERS, *LISTS, None, True, False, "text", "", " ", "x" * 256, "a\0b", "1"]
NEEDED = {
    "convert": ["source=s", "output=o"],
    "push": ["repository=me/cats"],
    "cut_objects": ["output=o"],
    "make_shards": ["output=o"],
}
FEATURES = [FeatureInfo("near", 16, 8), FeatureInfo("middle", 16, 16), FeatureInfo("far", 16, 32)]


@pytest.fixture
def compose(root: Path) -> Callable[..., dict[str, Any]]:
    register_parts(root / "conf", training_parts())

    def plain(command: str, *overrides: str) -> dict[str, Any]:
        config = compose_config(root / "conf", command, [*NEEDED.get(command, []), *overrides])
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]

    return plain


def config_names() -> list[str]:
    return [command.replace("-", "_") for command in COMMANDS]


def places(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the path to every key, sections included."""
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def changed(values: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    values = copy.deepcopy(values)
    section = values
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return values


def refusal(start: Callable[[], object]) -> str | None:
    """Returns the sentence that a start ends in; None if it goes on. Any other error fails the test."""
    try:
        start()
    except UserError as error:
        return str(error)
    return None


def is_refused(start: Callable[[], object], key: str) -> bool:
    sentence = refusal(start)
    assert sentence is None or len(sentence.splitlines()) == 1
    assert sentence is None or key in sentence or " no " in sentence, f"{key}: {sentence}"
    return sentence is not None


@pytest.mark.parametrize("command", config_names())
def test_every_key_of_the_files_has_a_kind_and_no_kind_is_left_over(
    compose: Callable[..., dict[str, Any]], command: str
) -> None:
    check_config(command, compose(command), training_parts(), complete=True)

    def assert_same(section: Any, values: dict[str, Any]) -> None:
        kinds = keys_of(section)
        assert getattr(section, "__required_keys__", kinds.keys()) <= values.keys() <= kinds.keys()
        for key, kind in kinds.items():
            if is_section(kind) and keys_of(kind) and key in values:
                assert_same(kind, values[key])

    assert_same(keys_of_command(command), compose(command))


@pytest.mark.parametrize("command", config_names())
def test_any_value_of_any_key_is_a_start_or_a_sentence(compose: Callable[..., dict[str, Any]], command: str) -> None:
    values, parts = compose(command, *(["dataset=coco"] if command in ("eval", "export") else [])), training_parts()
    refused = 0
    for path in places(values):
        for value in VALUES:
            config = changed(values, path, value)
            if is_refused(lambda config=config: check_config(command, config, parts, complete=True), path[-1]):  # type: ignore[misc]
                refused += 1
            else:
                assert value == value, "not a number"
                is_refused(lambda config=config: start(command, config), path[-1])  # type: ignore[misc]
    assert refused > 10 * len(list(places(values)))


def start(command: str, config: dict[str, Any]) -> None:
    """Does what a command does first with its configuration."""
    if command == "infer":
        keys = ("checkpoint", "task", "runtime", "precision", "threads", "compile", "output_stride", "tta")
        Request(**{key: config[key] for key in keys})
    if command == "export":
        ExportOptions(size=config["size"], batch=config["batch"], nms=config["nms"])
    if command == "train":
        Preprocess(**config["input"])
        FineTuning(**config["finetune"])
        create_qat(config)


def context(registry: Registry[Any], name: str) -> Callable[[dict[str, Any]], object] | None:
    """Returns what builds a part from its options, without memory for its weights."""
    if registry is BACKBONES:
        return lambda options: BACKBONES.create(**options)
    if registry is HEADS:
        return lambda options: create_head(options.pop("name"), FEATURES, 3, **options)
    if registry.group == "augment":
        return lambda options: create_augment(options, Preprocess((64, 64)))
    if registry.group == "optimizer":
        return lambda options: create_optimizer(torch.nn.Linear(2, 2), options)
    if registry.group == "scheduler":
        return lambda options: [create_schedule(options, 4, 100)(step) for step in (0, 40, 399)]
    return None


@pytest.mark.parametrize(
    ("registry", "name"),
    [(registry, name) for registry in training_parts() for name in registry.names()],
    ids=[f"{registry.group}-{name}" for registry in training_parts() for name in registry.names()],
)
def test_any_value_of_any_key_of_a_part_is_a_part_or_a_sentence(registry: Registry[Any], name: str) -> None:
    build = context(registry, name)
    keys = registry.keys(name)
    for key in keys:
        for value in VALUES:
            config = {**keys, key: value}
            if is_refused(lambda config=config: registry.check(config, registry.group), key):  # type: ignore[misc]
                continue
            assert value == value, "not a number"
            if build is not None and key != registry.name_key:
                with torch.device("meta"):
                    is_refused(lambda config=config: build(dict(config)), key)  # type: ignore[misc]


def test_the_runtimes_that_a_key_may_name_are_those_that_there_are() -> None:
    kind = keys_of(keys_of_command("infer"))["runtime"]
    assert kind.__args__ == ("auto", "torch", *RUNTIMES)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=0", "trainer.max_epochs must be a whole number from 1 to 1,000,000, got 0."),
        ("trainer.val_every_n_epochs=0", "val_every_n_epochs must be a whole number from 1 to 1,000,000, got 0."),
        ("trainer.limit_train_batches=0", "must be a whole number from 1 to 1,000,000, or null, got 0."),
        ("trainer.limit_val_batches=-1", "must be a whole number from 0 to 1,000,000, or null, got -1."),
        ("trainer.early_stopping_patience=often", "must be a whole number from 1 to 1,000,000, or null, got 'often'."),
        ("trainer.gradient_clip_norm=0", "must be a number above 0 and at most 1,000,000, or null, got 0."),
        ("ema.decay=1", "ema.decay must be a number from 0 up and below 1, or null, got 1."),
        ("ema.decay=nan", "ema.decay must be a number from 0 up and below 1, or null, got nan."),
        ("ema=0.9", "ema must be set by its keys (decay), got 0.9."),
        ("seed=-1", "seed must be a whole number from 0 to 4,294,967,295, got -1."),
        ("seed=true", "seed must be a whole number from 0 to 4,294,967,295, got true."),
        ("trainer.channels_last=1", "trainer.channels_last must be true or false, got 1."),
        ("trainer.precision=bf16-true", "must be one of 32-true, bf16-mixed, 16-mixed, got 'bf16-true'."),
        ("input.size=320", "input.size must be a list of 2, each a whole number from 1 to 8,192, got 320."),
        ("input.size=[1e5,1e5]", "each a whole number from 1 to 8,192, got [100000.0, 100000.0]."),
        ("optimizer.lr=fast", "optimizer.lr must be a number from 0 to 1,000, got 'fast'."),
        ("optimizer={lr: fast}", "optimizer.lr must be a number from 0 to 1,000, got 'fast'."),
        ("dataset.train_split=[a,b]", "dataset.train_split must be text with at least one character"),
        ("backbone.width=1e9", "backbone.width must be a number above 0 and at most 8, got 1000000000.0."),
        ("backbone.depth=1e30", "backbone.depth must be a number above 0 and at most 10, got 1e+30."),
        ("backbone.padding=1", "backbone.padding must be one of symmetric, tf_same, got '1'."),
        ("loader.batch_size=null", "loader.batch_size must be a whole number from 1 to 65,536, got null."),
        ("loader.batch_size=1.5", "loader.batch_size must be a whole number from 1 to 65,536, got 1.5."),
        (f"run_dir={'x' * 256}", "no name in it longer than 255 bytes, got 'xxx"),
        ("finetune.backbone_lr=nan", "finetune.backbone_lr must be a number from 0 to 1,000, got nan."),
        ("normalisation.mean=[nan,0,0]", "normalisation.mean must be a list of 3, each a number from -1,000 to 1,000"),
        ("weights=[a]", "weights must be text that is a path"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_in_one_sentence(
    compose: Callable[..., dict[str, Any]], override: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        compose("train", override)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "override",
    [
        "trainer.limit_train_batches=3",
        "trainer.limit_val_batches=0",
        "trainer.gradient_clip_norm=0.5",
        "ema.decay=null",
        "ema.decay=0",
        "optimizer.lr=1",
        "optimizer.lr=${seed}",
        "input.size=[96,128]",
        "trainer={max_epochs: 3, channels_last: false}",
        "dataset.root='/data/my images'",
    ],
)
def test_what_is_right_passes(compose: Callable[..., dict[str, Any]], override: str) -> None:
    compose("train", override)
