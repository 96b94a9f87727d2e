"""What a run measured, as it is kept in benchmark.json: every round of every competitor, and the machine."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.lab.benchmark.competitor import Group, Precision
from mbv2kit.lab.benchmark.ratios import paired

JSON_FILE = "benchmark.json"


@dataclass(slots=True, kw_only=True)
class Row:
    """What a competitor did in a case.

    Attributes:
        name: Of the competitor.
        group: Of the competitor.
        precision: Of the competitor.
        rounds: By measure, a value a round; empty where it did not take part.
        problem: Why it did not.
        madds: Of the competitor.
        facts: What else is known of it: versions, the turns of its warm-up, how its memory went.
    """

    name: str
    group: Group
    precision: Precision
    rounds: dict[str, list[float]] = field(default_factory=dict)
    problem: str | None = None
    madds: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What a case found; see :class:`mbv2kit.lab.benchmark.competitor.Case`."""

    job: str
    name: str
    title: str
    unit: str
    baseline: tuple[str, str]
    notes: tuple[str, ...]
    rows: list[Row]

    def row(self, name: str) -> Row | None:
        """Returns the row of a competitor that took part."""
        return next((row for row in self.rows if row.name == name and row.problem is None), None)

    def speed_ups(self, row: Row, measure: str) -> list[float] | None:
        """Returns, round by round, how many times as fast as the baseline a competitor was; None without a baseline.

        The same measure of both is compared, or the baseline's own where it has no such measure.
        """
        base = self.row(self.baseline[0])
        if base is None:
            return None
        return paired(base.rounds.get(measure, base.rounds[self.baseline[1]]), row.rounds[measure])


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All of a run.

    Attributes:
        machine: Processor, cores, memory, system, and the versions of what ran.
        settings: As asked for.
        cases: In the order in which they ran.
    """

    machine: dict[str, Any]
    settings: Mapping[str, Any]
    cases: list[CaseResult]

    def case(self, job: str, name: str) -> CaseResult | None:
        """Returns a case that ran."""
        return next((case for case in self.cases if (case.job, case.name) == (job, name)), None)

    def save(self, path: Path) -> None:
        """Writes everything as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads what :meth:`save` wrote.

        Raises:
            UserError: It is not there, or something else.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            cases = [_case(each) for each in values["cases"]]
            return cls(machine=values["machine"], settings=values["settings"], cases=cases)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); name the {JSON_FILE} of a run.") from None
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path} is not what a benchmark writes: {error!r}.") from None


def _case(values: Mapping[str, Any]) -> CaseResult:
    rows = [Row(**row) for row in values["rows"]]
    return CaseResult(
        **{**values, "rows": rows, "baseline": tuple(values["baseline"]), "notes": tuple(values["notes"])}
    )
