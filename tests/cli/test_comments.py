"""Comments of YAML files and arguments of docstrings, read as the meaning of keys."""

import json
from dataclasses import dataclass
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.cli.comments import argument_comments, yaml_comments

YAML = """\
# @package _global_
# What the file is about,
# on two lines.
defaults:
  - other # not a key

# Above the key,
# on two lines.
above: 1
behind: [1, "#2",
  3] # behind the last line
'quoted # key': "a # b" # c
none:
none_too: # nothing yet

# Too far away.

both: 2 # behind
# above the branch
branch: # behind the branch
  # above the leaf
  leaf: null
  inner:
    deep: x # deep
"""


def test_a_comment_belongs_to_the_key_below_or_before_it() -> None:
    assert yaml_comments(YAML) == {
        "": "What the file is about, on two lines.",
        "above": "Above the key, on two lines.",
        "behind": "behind the last line",
        "quoted # key": "c",
        "none_too": "nothing yet",
        "both": "behind",
        "branch": "above the branch behind the branch",
        "branch.leaf": "above the leaf",
        "branch.inner.deep": "deep",
    }


def test_a_file_without_comments_or_keys() -> None:
    assert yaml_comments("a: 1\n") == {}
    assert yaml_comments("") == {}
    assert yaml_comments("# Nothing but this.\n") == {"": "Nothing but this."}


words = st.text("abc xyz#'\"[]{}:,", max_size=20)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.tuples(words, words), max_size=5))
def test_values_and_comments_never_mix(content: dict[str, tuple[str, str]]) -> None:
    lines = [f"{key}: {json.dumps(value)} # {comment}" for key, (value, comment) in content.items()]
    expected = {key: " ".join(comment.split()) for key, (_, comment) in content.items() if comment.strip()}
    assert yaml_comments("\n".join(lines)) == expected


@dataclass(frozen=True)
class Limits:
    """Numbers that several parts share.

    Attributes:
        most: Largest number.
    """

    most: int = 3


class Base:
    """A base.

    Args:
        size: In pixels; see :class:`~some.where.Else` and ``other``.
        kind: Replaced below.
    """


class Part(Base):
    """A *small* part, described in one line.

    A second paragraph: with a colon.

    Args:
        kind: ``round``, or
            ``square`` (the default).
        first, *second: One text for both.
        name (str): With a type.
        limits: Not a key.

    Raises:
        UserError: Never.
    """

    def __init__(self, kind: str = "square", first: int = 1, limits: Limits = Limits()) -> None: ...


def test_arguments_of_a_class_its_bases_and_its_dataclasses() -> None:
    expected = {
        "": "A small part, described in one line.",
        "size": "In pixels; see some.where.Else and other.",
        "kind": "round, or square (the default).",
        "first": "One text for both.",
        "second": "One text for both.",
        "name": "With a type.",
        "limits": "Not a key.",
        "most": "Largest number.",
    }
    assert argument_comments(Part) == expected
    assert argument_comments(partial(Part, kind="round")) == expected


def test_a_function_and_something_without_a_docstring() -> None:
    def build(size: int = 1) -> None:
        """Builds.

        Args:
            size: In meters.
        """

    def plain(size: int = 1) -> None: ...

    assert argument_comments(build) == {"": "Builds.", "size": "In meters."}
    assert argument_comments(plain) == {}
