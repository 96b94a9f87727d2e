import codecs
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.errors import UserError
from mbv2kit.files.text import read_lines

# Names as people have them: no control characters, and no ends of lines.
NAMES = st.lists(
    st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufeff"), min_size=1), min_size=1
)
MARKS = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "utf-8": codecs.BOM_UTF8}


@given(names=NAMES, encoding=st.sampled_from([*MARKS, "plain"]), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_lines_come_back_whatever_unicode_they_are_in(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], encoding: str, end: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "names.txt"
    text = end.join(names) + end
    path.write_bytes(text.encode() if encoding == "plain" else MARKS[encoding] + text.encode(encoding))
    assert read_lines(path) == names


def test_windows_1252_is_the_last_resort_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_bytes("caf\u00e9\r\nna\u00efve".encode("cp1252"))
    assert read_lines(tmp_path / "a.txt") == ["caf\u00e9", "na\u00efve"]
    assert "a.txt is not UTF-8; it is read as Windows-1252" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        (tmp_path / "a.txt").write_bytes(b"")
        assert read_lines(tmp_path / "a.txt") == []
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names\n".encode("utf-16-le"), r"a\.txt: this is no text in UTF-8; save it as UTF-8"),
        (b"\x81\x8d\xff", r"a\.txt: this is no text in UTF-8 \(.*\); save it as UTF-8"),
        (codecs.BOM_UTF16_LE + b"a", r"a\.txt: this is no text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_lines(tmp_path / "a.txt")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: the file could not be read \(.*No such file"):
        read_lines(tmp_path / "none.txt")
    with pytest.raises(UserError, match="this is no regular file"):
        read_lines(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.txt")
        with pytest.raises(UserError, match="this is no regular file"):
            read_lines(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match="could not be read"):
        read_lines(tmp_path / "nul\0.txt")
