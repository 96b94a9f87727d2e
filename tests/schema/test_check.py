from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.errors import UserError
from mbv2kit.schema import check_fields, check_value, is_text, shown, words
from mbv2kit.schema.rules import FILLED, ORDERED, RISING, Location, Locations, Name, Repository, Share, Size, above

NAN, INF = float("nan"), float("inf")


class Inner(TypedDict):
    count: int
    name: Name | None


class Outer(TypedDict):
    inner: Inner
    share: Share


@dataclass
class Options:
    size: Size
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (bool, [True, False], [0, 1, "true", None]),
        (int, [0, -3, np.int64(4)], [1.0, True, "1", None, 10**30, NAN]),
        (float, [0, 0.5, -1e9, np.float32(1)], [True, "1", None, NAN, INF, -INF, 1e30, 10**400, [1.0]]),
        (str, ["", "a", "2012"], [2012, None, True, ["a"], "a\0b", "x" * 100_000]),
        (Share, [0, 0.5, 1], [-0.1, 1.1, NAN]),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0, None, [1]]),
        (Share | None, [None, 1], ["null", 2]),
        (Size, [[1, 2], (8192, 1)], [[1], [1, 2, 3], [1.0, 2.0], [1e5, 1e5], [0, 1], 224, "ab", None]),
        (Annotated[Sequence[float], RISING], [[], [1, 2]], [[2, 1], [1, 1], 1, "1"]),
        (Annotated[tuple[Share, Share], ORDERED], [[0, 0], [0, 1]], [[1, 0], [0, NAN]]),
        (Locations, ["a", ["a", "b"]], [[], "", 5, [5], "x" * 256, ["x" * 256]]),
        (Location, ["a/b", "x" * 255, "x/" * 1000], ["", "x" * 256, "x/" * 3000, "\0"]),
        (
            Repository,
            ["me/cats", "me-2/a.b_c"],
            ["../x", "me", "me/../x", "/x", "me/cats/x", "a b/c", "me/a..b"],
        ),
        (Mapping[str, int], [{}, {"a": 1}], [{1: 1}, {"a": "b"}, [], None]),
        (Any, [None, 1, "a", [{"a": 1.0}], object()], [NAN, [1, {"a": INF}]]),
        (Inner, [{"count": 1, "name": None}], [{"count": NAN}, {"count": 1, "other": 2}, 5]),
    ],
)
def test_a_value_is_of_a_kind_or_not(kind: Any, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        check_value("key", [value], Sequence[kind])
    for value in wrong:
        with pytest.raises(UserError, match=r"^key must be a list, each "):
            check_value("key", [value], Sequence[kind])


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (NAN, Annotated[float, above(0, 8)], "key must be a number above 0 and at most 8, got nan."),
        (None, int, "key must be a whole number, got null."),
        (True, str, "key must be text, got true."),
        ("sam", Literal["same", "x"] | None, "key must be one of same, x, or null, got 'sam'. Did you mean 'same'?"),
        ([1], Annotated[Sequence[str], FILLED], "key must be a list, each text, at least one of them, got [1]."),
        ({"share": 2}, Outer, "key.share must be a number from 0 to 1, got 2."),
        ({"inner": {"count": "x"}}, Outer, "key.inner.count must be a whole number, got 'x'."),
        ({"inner": 3}, Outer, "key.inner must be set by its keys (count, name), got 3."),
    ],
)  # fmt: skip
def test_the_message_names_the_key_what_is_expected_and_what_was_found(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_value("key", value, kind)
    assert str(error.value) == message


def test_a_missing_key_is_told_only_where_all_must_be_there() -> None:
    check_value("", {"share": 1}, Outer)
    with pytest.raises(UserError, match=r"^'inner' is missing; it must be set by its keys \(count, name\)\.$"):
        check_value("", {"share": 1}, Outer, complete=True)


def test_a_dataclass_checks_its_own_fields() -> None:
    assert Options((3, 4)).size == (3, 4)
    with pytest.raises(UserError, match=r"^size must be a list of 2, each .* from 1 to 8,192, got \(0, 4\)"):
        Options((0, 4))
    with pytest.raises(UserError, match=r"^kind must be one of a, b, got 'c'"):
        Options((3, 4), "c")  # type: ignore[arg-type]


def test_what_is_text_decides_whether_digits_are_a_name() -> None:
    for kind in (str, Name | None, Literal["a"], Locations | None, Sequence[str], tuple[str, str]):
        assert is_text(kind)
    for other in (int, Name | int, Literal["a", 1], Any, Inner, Sequence[Any], None):
        assert not is_text(other)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda each: st.lists(each)))
def test_what_was_found_is_one_short_line(value: Any) -> None:
    assert len(shown(value)) < 2000
    assert len(shown(value).splitlines()) == 1


def test_every_kind_has_words() -> None:
    assert words(Locations | None).endswith("or null")
    assert words(Mapping[str, int]) == "a set of keys"
    weights = Mapping[Literal["a", "b"], Annotated[float, above(0, 9)]]
    assert words(weights) == "a set of keys, each with a number above 0 and at most 9"
    assert words(Any) == "a plain value"
