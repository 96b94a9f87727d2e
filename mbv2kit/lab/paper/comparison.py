"""Compares every published number with mbv2kit's count of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from mbv2kit.lab.paper.cases import CASES
from mbv2kit.lab.paper.published import UNITS, Number, PublishedTable, Value
from mbv2kit.lab.paper.statements import STATEMENTS

COUNTED_KINDS = ("params", "params_nobn", "madds", "madds_s2b")


class Verdict(StrEnum):
    """Result of a comparison."""

    AGREES = "agrees"
    KNOWN = "known not to reproduce"
    DISAGREES = "disagrees"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Comparison:
    """A published number and mbv2kit's.

    Attributes:
        number: The published number.
        ours: mbv2kit's number in the same unit; None if it cannot be counted.
    """

    number: Number
    ours: Value | None

    @cached_property
    def difference(self) -> float | None:
        """Relative difference from the published number, the largest for several numbers; None if there is none."""
        pairs = self._pairs()
        if pairs is None:
            return None
        return max((ours / value - 1 if value else ours for value, ours in pairs), key=abs)

    @property
    def verdict(self) -> Verdict:
        """Whether the numbers agree.

        They must agree within the tolerance or, if that is missing or 0, when rounded to the printed digits. A number
        that is known not to reproduce must still have the count that its explanation is about.
        """
        if self.ours is None:
            return Verdict.NOT_MEASURED
        number = self.number
        if number.counted is not None and isinstance(self.ours, float | int):
            same = has_digits_of(self.ours, number.counted)
            return Verdict.KNOWN if same else Verdict.DISAGREES
        pairs, difference = self._pairs(), self.difference
        if pairs is None or difference is None:
            return Verdict.DISAGREES
        if number.tolerance:
            agrees = abs(difference) <= number.tolerance
        else:
            agrees = all(has_digits_of(ours, value) for value, ours in pairs)
        return Verdict.AGREES if agrees else Verdict.DISAGREES

    def _pairs(self) -> list[tuple[float, float]] | None:
        """Returns pairs of published number and ours; None if their counts differ."""
        if self.ours is None:
            return None
        published, ours = (value if isinstance(value, tuple) else (value,) for value in (self.number.value, self.ours))
        return list(zip(published, ours, strict=True)) if len(published) == len(ours) else None


def has_digits_of(ours: float, printed: float) -> bool:
    """Returns whether ``ours`` rounds to the digits of ``printed``, as ``repr`` shows them."""
    digits = len(repr(printed).partition(".")[2]) if isinstance(printed, float) else 0
    return abs(ours - printed) <= 0.5 * 10.0**-digits * (1 + 1e-9)


def compare(tables: Mapping[str, PublishedTable]) -> list[Comparison]:
    """Compares all numbers of some tables, in order."""
    return [Comparison(number, ours_of(number)) for table in tables.values() for number in table.numbers.values()]


def ours_of(number: Number) -> Value | None:
    """Returns mbv2kit's count of a number in its unit; None for what is trained, timed or chosen."""
    if number.id in STATEMENTS:
        return STATEMENTS[number.id]()
    case = CASES.get(number.id) or CASES.get(number.id.rpartition("/")[0])
    if case is None or number.kind not in COUNTED_KINDS:
        return None
    return case.count(number.kind) / UNITS.get(number.unit, 1)
