import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.texts import html_text, markdown_code, markdown_text, shown

ANY_TEXT = st.text(st.characters(codec=None), max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", "cat"),
        ("Straße \u732b \U0001f408\u200d\u2b1b", "Straße \u732b \U0001f408\u200d\u2b1b"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\tand\r\x9b", "two\\nlines\\tand\\r\\x9b"),
        ("\u202edlrow\u2066", "\\u202edlrow\\u2066"),
        ("\udcff\ud800", "\\udcff\\ud800"),
        ("a\u2028b\u00a0c", "a\\u2028b\u00a0c"),
    ],
)
def test_what_acts_is_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(ANY_TEXT)
def test_a_shown_text_is_one_harmless_line_and_stays_as_it_is(text: str) -> None:
    line = shown(text)
    line.encode()
    assert len(line.splitlines()) <= 1
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", line)
    assert shown(line) == line


@given(ANY_TEXT)
def test_markup_in_a_text_has_no_effect(text: str) -> None:
    for formatted in (markdown_text(text), html_text(text)):
        assert "<" not in formatted
        assert ">" not in formatted
    assert not re.search(r"(?<!\\)(\\\\)*[`*\[\]|~]", markdown_text(text))
    code = markdown_code(text)
    if code != "(empty)":
        fence = re.match("`+", code)
        assert fence is not None
        assert code.endswith(fence[0])
        assert fence[0] not in code[len(fence[0]) : -len(fence[0])]
