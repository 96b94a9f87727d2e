"""Our count of every published number, the distance between the two, and what is to be said of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from mbv2kit.lab.paper.cases import CASES
from mbv2kit.lab.paper.published import UNITS, Number, PublishedTable, Value
from mbv2kit.lab.paper.statements import STATEMENTS

COUNTED_KINDS = ("params", "params_nobn", "madds", "madds_s2b")


class Verdict(StrEnum):
    """What a comparison comes to."""

    AGREES = "agrees"
    KNOWN = "known not to reproduce"
    DISAGREES = "does not agree"
    NOT_MEASURED = "not measured here"


@dataclass(frozen=True)
class Comparison:
    """A published number beside ours.

    Attributes:
        number: The published one.
        ours: In the same unit; None where there is nothing to count.
    """

    number: Number
    ours: Value | None

    @cached_property
    def difference(self) -> float | None:
        """Of ours from the published one, relative to it; of several numbers the largest, None where there is none."""
        pairs = self._pairs()
        if pairs is None:
            return None
        return max((ours / value - 1 if value else ours for value, ours in pairs), key=abs)

    @property
    def verdict(self) -> Verdict:
        """Whether they agree.

        They do within the number's tolerance; without one, or where it is 0, ours must round to the printed digits. A
        number that is known not to reproduce must still be counted as it was when that was found.
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
        """Published and ours, one by one; None where they are not as many."""
        if self.ours is None:
            return None
        published, ours = (value if isinstance(value, tuple) else (value,) for value in (self.number.value, self.ours))
        return list(zip(published, ours, strict=True)) if len(published) == len(ours) else None


def has_digits_of(ours: float, printed: float) -> bool:
    """Says whether ``ours`` rounds to the digits of ``printed``, as ``repr`` has them."""
    digits = len(repr(printed).partition(".")[2]) if isinstance(printed, float) else 0
    return abs(ours - printed) <= 0.5 * 10.0**-digits * (1 + 1e-9)


def compare(tables: Mapping[str, PublishedTable]) -> list[Comparison]:
    """Counts what can be counted of the numbers of ``tables``, and sets it beside them in their order."""
    return [Comparison(number, ours_of(number)) for table in tables.values() for number in table.numbers.values()]


def ours_of(number: Number) -> Value | None:
    """Returns our count of a number in its unit; None for what must be trained, timed or chosen."""
    if number.id in STATEMENTS:
        return STATEMENTS[number.id]()
    case = CASES.get(number.id) or CASES.get(number.id.rpartition("/")[0])
    if case is None or number.kind not in COUNTED_KINDS:
        return None
    return case.count(number.kind) / UNITS.get(number.unit, 1)
