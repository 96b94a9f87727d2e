"""The font of drawings follows the letters of the texts."""

from pathlib import Path

import pytest
from PIL import ImageFont

from mbv2kit.imaging import fonts
from mbv2kit.imaging.fonts import font_for


def own(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def draws(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Tells whether a font has a character, from what it draws for one that no font has."""
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def test_plain_letters_have_the_same_font_on_every_machine() -> None:
    assert font_for(20, ["cat", "a dog 0.93"]).getname() == own(20).getname()
    assert font_for(20, []).size == 20


def test_other_letters_are_drawn_where_a_font_has_them() -> None:
    assert not draws(font_for(20, ["cat"]), "ö")
    font = font_for(20, ["Größe XL", "Łódź", "кот"])
    assert all(draws(font, character) for character in "ößŁóźкот")


def test_without_another_font_the_own_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    fonts._best.cache_clear()
    assert font_for(21, ["Größe"]).getname() == own(21).getname()
    fonts._best.cache_clear()


def test_of_two_fonts_the_one_that_lacks_fewer_characters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = [name for name in fonts._installed() if Path(name).parts[-3:] == ("fonts", "ttf", "DejaVuSans.ttf")]
    monkeypatch.setattr(fonts, "_installed", lambda: (path,))
    fonts._best.cache_clear()
    assert font_for(22, ["Größe \uffff"]).getname() == ("DejaVu Sans", "Book")
    fonts._best.cache_clear()
