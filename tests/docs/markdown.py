"""The fenced blocks and inline commands of the Markdown pages."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The report is generated, and holds no commands to try.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"(?<!`)`((?:mbv2kit|python) [^`]+)`(?!`)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: Name of the page.
        line: Line of the fence, from 1.
        language: What stands behind the fence; empty if nothing does.
        title: File that the block shows, if it names one.
        text: The lines in between.
        reason: Why the block cannot run, from the comment before it; None if it runs.
    """

    page: str
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None

    def commands(self) -> list[str]:
        """Returns the command lines of the block, each on one line and without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page.name,
            line=text.count("\n", 0, found.start("language")) + 1,
            language=found["language"],
            title=found["title"],
            text=found["text"],
            reason=found["reason"],
        )
        for found in _FENCE.finditer(text)
    ]


def inline_commands(page: Path) -> list[str]:
    """Returns the commands that stand in backticks within the text of a page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(command.split()) for command in dict.fromkeys(_INLINE.findall(text))]
