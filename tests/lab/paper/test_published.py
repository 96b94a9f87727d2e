from pathlib import Path
from typing import Any

import pytest
import yaml

from mbv2kit.errors import UserError
from mbv2kit.lab.paper.comparison import Comparison, Verdict, has_digits_of
from mbv2kit.lab.paper.published import PUBLISHED, Number, load, quirks


def number(**options: Any) -> Number:
    defaults: dict[str, Any] = {"id": "t/x", "name": "x", "kind": "params", "value": 3.4, "source": "Table 4"}
    return Number(**defaults | options)


def verdict(ours: Any, **options: Any) -> Verdict:
    return Comparison(number(**options), ours).verdict


def changed(tmp_path: Path, **entries: Any) -> Path:
    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    for key, value in entries.items():
        content[key] |= value
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def test_a_cell_is_a_number_with_the_unit_and_kind_of_its_column() -> None:
    cell = load()["table4"].numbers["table4/mobilenet_v1/madds"]
    assert (cell.value, cell.unit, cell.kind, cell.tolerance, cell.source) == (575, "M", "madds", 0.012, "Table 4")
    assert (cell.table, cell.row, cell.column) == ("table4", "mobilenet_v1", "madds")
    assert cell.name == "MobileNetV1: madds"
    measured = load()["table4"].numbers["table4/mobilenet_v1/top1"]
    assert (measured.value, measured.unit, measured.tolerance) == (70.6, "%", None)
    other_kind = load()["table4"].numbers["table4/mobilenet_v2/params"]
    assert (other_kind.kind, other_kind.value) == ("params_nobn", 3.4)


def test_a_number_in_the_text_has_no_row() -> None:
    scales = load()["table7"].numbers["table7/mf_scales"]
    assert (scales.row, scales.column, scales.source) == ("", "mf_scales", "Figure 8 caption")
    assert scales.value == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def test_countable_numbers_have_a_tolerance_or_a_reason() -> None:
    for table in load().values():
        for item in table.numbers.values():
            if item.kind not in ("accuracy", "time", "setting"):
                assert (item.tolerance is None) == (item.counted is not None), item.id
                assert item.tolerance is not None or item.reason, item.id


def test_every_quirk_is_a_paragraph() -> None:
    assert len(quirks()) >= 5
    assert all(quirk.endswith(".") and "\n" not in quirk for quirk in quirks())


def test_an_explanation_of_an_unknown_number_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    path = changed(tmp_path, notes={"table4/mobilenet_v2/param": "It is so."})
    with pytest.raises(
        UserError, match=r"no number 'table4/mobilenet_v2/param'.*Did you mean 'table4/mobilenet_v2/params'"
    ):
        load(path)


def test_a_number_known_not_to_reproduce_has_no_tolerance(tmp_path: Path) -> None:
    path = changed(tmp_path, known={"table4/mobilenet_v1/params": {"counted": 5.0, "reason": "It is so."}})
    with pytest.raises(UserError, match="'table4/mobilenet_v1/params' is known not to reproduce"):
        load(path)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        tables={"extra": {"title": "t", "source": "s", "numbers": {"x": {"name": "x", "kind": "tme", "value": 1}}}},
    )
    with pytest.raises(UserError, match=r"'extra/x' has the unknown kind 'tme'. Did you mean 'time'"):
        load(path)


def test_numbers_agree_within_their_tolerance_on_both_sides() -> None:
    assert verdict(3.5, tolerance=0.03) is Verdict.AGREES
    assert verdict(3.3, tolerance=0.03) is Verdict.AGREES
    assert verdict(3.51, tolerance=0.03) is Verdict.DISAGREES
    assert verdict(3.29, tolerance=0.03) is Verdict.DISAGREES


def test_without_a_tolerance_a_number_must_round_to_the_printed_digits() -> None:
    assert verdict(0.16666, value=0.1667, tolerance=0) is Verdict.AGREES
    assert verdict(0.16664, value=0.1667, tolerance=0) is Verdict.DISAGREES
    assert verdict(3.449, tolerance=0.001) is Verdict.DISAGREES


def test_several_numbers_agree_if_each_does() -> None:
    assert verdict((7.9, 8.9), value=(8, 9), tolerance=0.02) is Verdict.AGREES
    assert verdict((7.9, 9.4), value=(8, 9), tolerance=0.02) is Verdict.DISAGREES
    assert verdict((8, 9, 9), value=(8, 9), tolerance=0.02) is Verdict.DISAGREES


def test_what_is_known_not_to_reproduce_must_still_have_the_known_count() -> None:
    known = {"value": 6.9, "counted": 6.108776, "reason": "unknown"}
    assert verdict(6.108776, **known) is Verdict.KNOWN
    assert verdict(6.11, **known) is Verdict.DISAGREES
    # Even the published number itself disagrees, because it would make the reason wrong.
    assert verdict(6.9, **known) is Verdict.DISAGREES


def test_a_number_without_a_count_is_not_measured() -> None:
    assert verdict(None, kind="time") is Verdict.NOT_MEASURED
    assert verdict(3.4, tolerance=None) is Verdict.AGREES


def test_the_difference_is_relative_to_the_published_number() -> None:
    assert Comparison(number(value=4.0), 5.0).difference == pytest.approx(0.25)
    assert Comparison(number(value=(4.0, 10.0)), (5.0, 4.0)).difference == pytest.approx(-0.6)
    assert Comparison(number(), None).difference is None


@pytest.mark.parametrize(
    ("ours", "printed", "same"),
    [
        (300.77, 300, False),
        (300.4, 300, True),
        (4.2320, 4.23, True),
        (0.5, 0, True),
        (5.29, 5.3, True),
        (5.24, 5.3, False),
    ],
)
def test_digits(ours: float, printed: float, same: bool) -> None:
    assert has_digits_of(ours, printed) is same
