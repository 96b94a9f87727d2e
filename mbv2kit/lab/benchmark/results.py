"""Results of a run as kept in benchmark.json: every round of every competitor, and the machine."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from mbv2kit.errors import UserError
from mbv2kit.lab.benchmark.competitor import Group, Precision
from mbv2kit.lab.benchmark.ratios import paired

JSON_FILE = "benchmark.json"


@dataclass(slots=True, kw_only=True)
class Row:
    """Result of a competitor in a case; see :class:`mbv2kit.lab.benchmark.competitor.Competitor`.

    Attributes:
        name: Name of the competitor.
        group: Group of the competitor.
        precision: Precision of the competitor.
        rounds: For each measure, a value per round; empty if the competitor was skipped or failed.
        problem: Reason why the competitor was skipped or failed.
        madds: Multiply-adds of the network in one call, if known.
        facts: Further information: package versions, the turns of the warm-up, memory over time.
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
    """Results of a case; see :class:`mbv2kit.lab.benchmark.competitor.Case`."""

    job: str
    name: str
    title: str
    unit: str
    baseline: tuple[str, str]
    notes: tuple[str, ...]
    rows: list[Row]

    def row(self, name: str) -> Row | None:
        """Returns the row of a competitor, or None if it has no results."""
        return next((row for row in self.rows if row.name == name and row.problem is None), None)

    def speed_ups(self, row: Row, measure: str) -> list[float] | None:
        """Returns a competitor's speed-up over the baseline in each round; None if the baseline has no results.

        Compares the same measure of both, or the baseline's default measure where it lacks that one.
        """
        base = self.row(self.baseline[0])
        if base is None:
            return None
        return paired(base.rounds.get(measure, base.rounds[self.baseline[1]]), row.rounds[measure])


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Results of a run.

    Attributes:
        machine: Processor, cores, memory, system and package versions.
        settings: Configuration of the run.
        cases: Results of the cases, in the order of the run.
    """

    machine: dict[str, Any]
    settings: Mapping[str, Any]
    cases: list[CaseResult]

    def case(self, job: str, name: str) -> CaseResult | None:
        """Returns a case, or None if it is not part of the run."""
        return next((case for case in self.cases if (case.job, case.name) == (job, name)), None)

    def save(self, path: Path) -> None:
        """Writes the results as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads a file that :meth:`save` wrote.

        Raises:
            UserError: The file cannot be read, or is no such file.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            cases = [_case(each) for each in values["cases"]]
            return cls(machine=values["machine"], settings=values["settings"], cases=cases)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); name the {JSON_FILE} of a run.") from None
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path} is no result of this version's benchmark: {error!r}.") from None


def _case(values: Mapping[str, Any]) -> CaseResult:
    rows = [Row(**row) for row in values["rows"]]
    for row in rows:
        if row.group not in get_args(Group):
            raise ValueError(f"unknown group '{row.group}'")
    return CaseResult(
        **{**values, "rows": rows, "baseline": tuple(values["baseline"]), "notes": tuple(values["notes"])}
    )
