"""Names made of digits on the command line stay text, for every key that holds text."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.cli.keys import text_keys
from mbv2kit.cli.quoting import quote_names
from mbv2kit.training.parts import training_parts

NAMES = ["2012", "20241129", "77", "5", "2012_1", "1_1_1", "1e3", "007", "-5", "+5", ".5", "1.", "1_0.5", "0x10", "nan",
         "inf", "true", "False", "yes", "on", "off", "1:30", "2012-01-01", "Für später", "日本"]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        ("root=2012", "root='2012'"),
        ("root=2012_1", "root='2012_1'"),
        ("root=true", "root='true'"),
        ("root=null", "root=null"),
        ("root='null'", "root='null'"),
        ('root="5"', 'root="5"'),
        ("root='it\\'s 5'", "root='it\\'s 5'"),
        ("root=data/2012", "root=data/2012"),
        ("root=[1,a,'2',null]", "root=['1',a,'2',null]"),
        ("root=1,2,x", "root='1','2',x"),
        ("root=choice(1,2)", "root=choice('1','2')"),
        ("root=range(1,3)", "root=range(1,3)"),
        ("root=Für später (2)", "root='Für später (2)'"),
        ("root=it's 5", "root='it\\'s 5'"),
        ("root=a=b&{c}", "root='a=b&{c}'"),
        ("root=[日本,b]", "root=['日本',b]"),
        ("root=ü,b", "root='ü',b"),
        ("root=[a (2),b,5]", "root=['a (2)',b,'5']"),
        ("root=[it's, a{b}]", "root=['it\\'s','a{b}']"),
        ("root=[[a (2)],b]", "root=['[a (2)]',b]"),
        ("root=[a", "root='[a'"),
        ("root=${x}/y", "root=${x}/y"),
        ("root=~/x", f"root='{Path.home()}/x'"),
        ("root=", "root="),
        ("++root=5", "++root='5'"),
        ("count=5", "count=5"),
        ("root", "root"),
        ("--help", "--help"),
    ],
)
def test_digits_are_quoted_where_text_is_meant(line: str, quoted: str) -> None:
    assert quote_names([line], {"root"}) == [quoted]


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_text_keeps_the_name(root: Path, name: str) -> None:
    parts = training_parts()
    register_parts(root / "conf", parts)
    keys = ["run_dir", "resume", "weights", "dataset.root", "dataset.train_split", "dataset.val_split"]
    lines = [f"{key}={name}" for key in keys]
    config = compose_config(root / "conf", "train", [*lines, "dataset=coco", "task=detection", f"head.maps=[{name}]"])
    assert [OmegaConf.select(config, key) for key in keys] == [name] * len(keys)
    assert list(config.head.maps) == [name]


@pytest.mark.parametrize(
    "command",
    ["eval", "infer", "serve", "export", "convert", "push", "paper", "benchmark", "cut_objects", "make_shards"],
)
def test_every_command_keeps_the_names_of_its_texts(root: Path, command: str) -> None:
    register_parts(root / "conf", training_parts())
    config = compose_config(root / "conf", command, _needed(command))
    values: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    free = [
        key
        for key in (
            "checkpoint",
            "weights",
            "output",
            "run_dir",
            "split",
            "source",
            "class_names",
            "dry_run",
            "message",
        )
        if key in values
    ]
    assert set(free) <= text_keys(command, training_parts())
    again = compose_config(root / "conf", command, [*_needed(command), *(f"{key}=2012_1" for key in free)])
    assert [again[key] for key in free] == ["2012_1"] * len(free)


def _needed(command: str) -> list[str]:
    return {
        "convert": ["source=s", "output=o"],
        "push": ["repository=me/cats"],
        "cut_objects": ["output=o"],
        "make_shards": ["output=o"],
    }.get(command, [])
