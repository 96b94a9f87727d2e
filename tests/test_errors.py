import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.errors import first_few, nearest, one_line

names = st.text("abcdefghij_", min_size=1, max_size=12)


def test_a_typo_names_the_nearest_word() -> None:
    assert nearest("widht", ["width", "output_stride", "padding"]) == " Did you mean 'width'?"


def test_a_word_unlike_any_lists_all_names_in_order() -> None:
    assert nearest("zzz", ["voc", "coco"]) == " Known: coco, voc."


def test_nothing_is_suggested_where_nothing_is_known() -> None:
    assert nearest("voc", []) == ""


@given(st.sets(names, min_size=1), names)
def test_only_known_names_are_suggested(known: set[str], word: str) -> None:
    hint = nearest(word, known)
    assert hint == f" Known: {', '.join(sorted(known))}." or any(hint == f" Did you mean '{name}'?" for name in known)


@given(st.sets(names, min_size=1), st.data())
def test_a_known_name_is_nearest_to_itself(known: set[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(known)))
    assert nearest(name, known) == f" Did you mean '{name}'?"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("size mismatch:\n\t  [3]   vs [4].\n", "size mismatch: [3] vs [4]"),
        ("", "ValueError"),
        (" .\n", "ValueError"),
        ("x" * 400, "x" * 300),
    ],
)
def test_a_message_becomes_one_line_without_its_period(message: str, line: str) -> None:
    assert one_line(ValueError(message)) == line


@pytest.mark.parametrize(
    ("names", "text"), [("", ""), ("ab", "a, b"), ("abcde", "a, b, c, d, e"), ("abcdef", "a, b, c, d, e, ...")]
)
def test_long_lists_of_names_are_cut_after_five(names: str, text: str) -> None:
    assert first_few(names) == text
