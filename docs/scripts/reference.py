"""The reference pages of the site, generated from conf/ and the registries."""


def reference_pages() -> dict[str, str]:
    """Returns the Markdown of each page by its path in the site."""
    return {}
