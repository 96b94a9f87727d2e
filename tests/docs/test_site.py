"""The generated pages of the site hold what the code holds, and the drawing shows the import contract."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest
import yaml

from docs.scripts import drawing, reference
from mbv2kit.commands import COMMANDS
from mbv2kit.registry import Registry
from mbv2kit.training.parts import training_parts

REGISTRIES = training_parts()


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.group)
def test_every_part_has_a_section_and_every_key_a_meaning(registry: Registry[Any]) -> None:
    page = reference.parts_page(registry)
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name in registry.names():
        assert f"\n## {name}\n" in page
        for key in registry.options(name):
            assert any(row.startswith(f"| `{registry.group}.{key}` |") for row in rows), f"{name}: {key}"
    assert [row for row in rows if row.endswith("|  |")] == [], "an argument without a line in the docstring"


def test_every_command_has_a_section_and_every_key_a_meaning() -> None:
    page = reference.commands_page()
    for command in COMMANDS:
        assert f"\n## mbv2kit {command}\n" in page
    assert [row for row in page.splitlines() if row.startswith("| `") and row.endswith("|  |")] == []


def test_every_experiment_has_a_section_with_its_command() -> None:
    page = reference.experiments_page()
    for path in (reference.CONF / "experiment").rglob("*.yaml"):
        name = path.relative_to(reference.CONF / "experiment").with_suffix("")
        assert f"\n## {name}\n" in page
        assert f"experiment={name}" in page


def test_the_drawing_shows_the_import_contract() -> None:
    assert drawing.SVG.read_text(encoding="utf-8") == drawing.draw(), "run python -m docs.scripts.drawing"
    names = [node.text for node in ET.fromstring(drawing.draw()).iter() if node.get("class") == "name"]
    assert names == [name for layer in drawing.layers() for name in layer]
    assert set(drawing.CAPTIONS) == set(names)


def test_texts_of_the_drawing_fit_into_their_boxes() -> None:
    nodes = list(ET.fromstring(drawing.draw()))
    widths = [float(node.attrib["width"]) for node in nodes if node.tag.endswith("rect")]
    texts = [node.text or "" for node in nodes if node.get("class") == "about"]
    # Wide sans-serif fonts take up to 7 pixels a letter at this size; a margin of 12 pixels is on both sides.
    assert [text for text, width in zip(texts, widths, strict=True) if 7 * len(text) + 24 > width] == []


def test_every_page_is_in_the_navigation() -> None:
    pages: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, str):
            pages.add(node)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            collect(child)

    # mkdocs has tags of its own for Python objects, which are of no interest here.
    collect(yaml.load((reference.ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)["nav"])
    assert set(reference.reference_pages()) <= pages
