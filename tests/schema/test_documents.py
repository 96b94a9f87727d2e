from pathlib import Path

import pytest

from mbv2kit.errors import UserError
from mbv2kit.schema.documents import read_json, read_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\0\0\0\0", "it is empty"),
        (b"  \n", "it is empty"),
        ('{"a": 1}'.encode("utf-16"), "it is not encoded in UTF-8"),
        (b'{"a": ', "Expecting value: line 1 column 7"),
        (b"[1]", "it holds no JSON object"),
        (b"[" * 200_000, "it is nested too deeply"),
        (b'{"a":' * 200_000, "it is nested too deeply"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a": "' + b"x" * 40_000_000, "it has more than 32,000,000 bytes"),
    ],
    ids=range(10),
)
def test_json_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "model.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(file, "describe a model")
    assert str(error.value).startswith(f"{file} does not describe a model: {reason}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        ("a: 1".encode("utf-16"), "it is not encoded in UTF-8"),
        (b"- 1", "it holds no keys"),
        (b"text", "it holds no keys"),
        (b"a: [", "while parsing"),
        (b"a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"[" * 100_000, "it is nested too deeply"),
        (BOMB.encode(), "it has aliases"),
        (b"a: 1\n" * 300_000, "it has more than 1,000,000 bytes"),
    ],
    ids=range(9),
)
def test_yaml_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(file, "hold the configuration of a run")
    assert str(error.value).startswith(f"{file} does not hold the configuration of a run: {reason}")
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_json(tmp_path / "nothing.json", "help")
    with pytest.raises(UserError, match="it is no file"):
        read_yaml(tmp_path, "help")


def test_what_is_right_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "ü"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json", "help") == {"a": [1, "ü"]}
    (tmp_path / "a.yaml").write_text("a: ${oc.env:HOME}\nb: {c: '2012_1'}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml", "help") == {"a": "${oc.env:HOME}", "b": {"c": "2012_1"}}
