"""What mkdocs does besides rendering the pages: adds the generated ones and refuses assets from other hosts."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.scripts.reference import reference_pages

ROOT = Path(__file__).parents[2]
# Pages of the site whose source is a file at the top of the repository.
ROOT_PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
# A cross-reference of a docstring, which mkdocstrings leaves as it is.
_ROLE = re.compile(r":\w+:<code>~?(?:[\w.]*\.)?(\w+)</code>")
_EXTERNAL_ASSET = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are generated from the code and from files at the top of the repository."""
    pages = reference_pages()
    for page, source in ROOT_PAGES.items():
        # Links that lead into docs/ from the top of the repository start in docs/ here.
        pages[page] = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the page with the last name of each cross-reference in place of the reference."""
    return _ROLE.sub(r"<code>\1</code>", html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Returns the page unchanged; the site must work without a network.

    Raises:
        PluginError: The page loads something from another host.
    """
    if found := _EXTERNAL_ASSET.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from another host: {found[0]}")
    return output
