"""Writes a report as Markdown and as one self-contained HTML file."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mbv2kit.texts import html_text, markdown_text

# Follows the reader's light or dark theme; images have a white background.
STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 22%, Canvas); }
body { font: 15px/1.5 system-ui, sans-serif; color: CanvasText; background: Canvas;
  max-width: 72rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 3rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92em; }
caption { text-align: left; font-weight: 600; padding: 0.3rem 0; }
th, td { padding: 0.2rem 0.7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { vertical-align: bottom; } .right { text-align: right; white-space: nowrap; }
.notes { font-size: 0.9em; margin-top: -0.4rem; max-width: 60rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; background: white; } figcaption { font-size: 0.9em; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text.

    Attributes:
        columns: Headings; a leading ``>`` aligns the column to the right, as for numbers.
        rows: Rows, each with a cell per column.
        title: Title above the table; may be empty.
        notes: Sentences below the table.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()

    def to_markdown(self) -> str:
        """Returns the table in GitHub's Markdown, with the title as bold text."""
        rules = ["---:" if column.startswith(">") else "---" for column in self.columns]
        headings = [column.removeprefix(">") for column in self.columns]
        lines = [[markdown_text(cell) for cell in line] for line in (headings, *self.rows)]
        lines.insert(1, rules)
        parts = [f"**{markdown_text(self.title)}**"] if self.title else []
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return "\n\n".join([*parts, *map(markdown_text, self.notes)])

    def to_html(self) -> str:
        """Returns the table in an element that scrolls if the table is too wide."""
        kinds = [' class="right"' if column.startswith(">") else "" for column in self.columns]
        head = _html_row("th", [column.removeprefix(">") for column in self.columns], kinds)
        body = "\n".join(_html_row("td", row, kinds) for row in self.rows)
        caption = f"<caption>{html_text(self.title)}</caption>" if self.title else ""
        table = f"<table>{caption}<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>"
        notes = "".join(f"<p>{html_text(note)}</p>" for note in self.notes)
        return f'<div class="scroll">{table}</div>' + (f'\n<div class="notes">{notes}</div>' if notes else "")


@dataclass(frozen=True, slots=True)
class Illustration:
    """An image file in the folder of the report, and its caption."""

    path: Path
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with paragraphs, tables and images."""

    title: str
    blocks: Sequence[str | Table | Illustration]


def write_pages(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes ``report.md``, which links to the images, and ``report.html``, which embeds them.

    Args:
        folder: Folder to write to; contains the images.
        title: Title of the report.
        sections: Sections in order.
    """
    markdown = [f"# {markdown_text(title)}"]
    html = [f"<h1>{html_text(title)}</h1>"]
    for section in sections:
        markdown.append(f"## {markdown_text(section.title)}")
        html.append(f"<h2>{html_text(section.title)}</h2>")
        for block in section.blocks:
            if isinstance(block, Table):
                markdown.append(block.to_markdown())
                html.append(block.to_html())
            elif isinstance(block, Illustration):
                caption = markdown_text(block.caption)
                markdown.append(f"![{caption}]({block.path.relative_to(folder).as_posix()})\n\n{caption}")
                image = f'<img alt="{html_text(block.caption)}" src="data:image/png;base64,{_base64(block.path)}">'
                html.append(f"<figure>{image}<figcaption>{html_text(block.caption)}</figcaption></figure>")
            else:
                markdown.append(markdown_text(block))
                html.append(f"<p>{html_text(block)}</p>")
    (folder / "report.md").write_text("\n\n".join(markdown) + "\n", encoding="utf-8")
    page = "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *html,
            "</body>\n</html>\n",
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _html_row(tag: str, cells: Sequence[str], kinds: Sequence[str]) -> str:
    row = "".join(f"<{tag}{kind}>{html_text(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
    return f"<tr>{row}</tr>"


def _base64(path: Path) -> str:
    return b64encode(path.read_bytes()).decode("ascii")
