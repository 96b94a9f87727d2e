"""Names of classes: which differ only in how they are written, and which are no names at all."""

import re
import unicodedata
from collections.abc import Iterable

_NUMBERED = re.compile(r"class_\d+")


def same_but_for_case(name: str) -> str:
    """Returns a name without case, underscores and the form of its Unicode; equal for names that look alike."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def are_numbered(names: Iterable[str]) -> bool:
    """Returns whether all names are those that a model gives classes of which it knows only the number."""
    return all(map(_NUMBERED.fullmatch, names))


def rewritten(names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Returns the names of one list that another list has in another form only, with that form, sorted.

    Names that one list has in both forms are different on purpose, such as letters and capitals.
    """
    names, others = set(names), set(others)
    forms = {same_but_for_case(other): other for other in others - names}
    return sorted((name, forms[form]) for name in names - others if (form := same_but_for_case(name)) in forms)
