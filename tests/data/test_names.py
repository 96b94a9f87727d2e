"""Names that differ only in how they are written."""

from mbv2kit.data.names import rewritten, same_but_for_case


def test_case_underscores_spaces_and_unicode_forms_are_ignored() -> None:
    assert same_but_for_case("  Great_White  Shark ") == "great white shark"
    assert same_but_for_case("CAFE\u0301") == same_but_for_case("caf\u00e9")
    assert same_but_for_case("Stra\u00dfe") == "strasse"


def test_names_in_another_form_are_found_with_that_form_in_order() -> None:
    names = ["dog", "White_Shark", "a", "A", "cat", "bee"]
    others = ["white shark", "A", "a", "DOG", "Bee", "bee", "cow"]
    # Both lists have "bee", so "Bee" is another class on purpose.
    assert rewritten(names, others) == [("White_Shark", "white shark"), ("dog", "DOG")]
    assert rewritten(names, names) == []
