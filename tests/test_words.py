"""The glossary of CONTRIBUTING.md ("Words") holds in code, comments, messages and the names of tests."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Folders and files that keep to the glossary; the changelog may speak of older names.
KEPT = ("README.md", "conf", "docs", "mbv2kit", "tests", "tools")
# Keys of the command line, which keep their names.
KEYS = re.compile(r"\w+_pictures|\.(?:pictures|contenders)|(?:pictures|contenders)[\"'=:]")


@cache
def glossary() -> dict[str, str]:
    """Returns what to say for each word that must not stand in the code."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Words\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?P<say>.+) \| (?P<instead>.+) \|$", section, re.MULTILINE)
    return {word: say for say, instead in rows for word in re.findall(r"`(.+?)`", instead)}


def complaints(text: str) -> list[str]:
    """Returns a line for each word of a text that the glossary has a better one for."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        prose = KEYS.sub("", line)
        for word, say in glossary().items():
            if re.search(rf"(?<![a-z]){word}(?![a-z])", prose, re.IGNORECASE):
                found.append(f"line {number}: say '{say}', not '{word}'")
    return found


def test_the_glossary_is_found() -> None:
    assert glossary()["picture"] == "image"
    assert glossary()["half floats"] == "fp16"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("# A picture of a cat.", "picture"),
        ("def test_nobody_waits() -> None:", "nobody"),
        ("what it Shall do", "shall"),
        ("pictures of cats", "pictures"),
    ],
)
def test_a_word_is_found_wherever_it_stands(line: str, word: str) -> None:
    assert [complaint.rpartition(" ")[2] for complaint in complaints(line)] == [f"'{word}'"]


@pytest.mark.parametrize("line", ["shallow", "python tools/export.py pictures=photos", "options.accuracy_pictures", ""])
def test_other_words_and_keys_are_left_alone(line: str) -> None:
    assert complaints(line) == []


@pytest.mark.parametrize("place", KEPT)
def test_the_glossary_is_kept(place: str) -> None:
    path = ROOT / place
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.suffix in {".py", ".yaml", ".md"}]
    files = [each for each in files if each != Path(__file__)]
    assert files
    found = {str(each.relative_to(ROOT)): complaints(each.read_text(encoding="utf-8")) for each in files}
    assert {name: lines for name, lines in found.items() if lines} == {}
