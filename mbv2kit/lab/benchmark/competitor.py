"""What the benchmark compares: competitors, grouped in cases. Imports no library of a competitor."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Group = Literal["mbv2kit", "runtime", "library"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Competitor:
    """One way to do the work of a case.

    Attributes:
        name: Unique within the case.
        group: ``mbv2kit``; ``runtime``: a runtime called directly by an expert user; ``library``: another library, used
            as documented.
        precision: Precision of the arithmetic; ``fp16`` includes bfloat16.
        library: Library whose interpreter runs it, as in the key ``python``.
        needs: Packages that the interpreter must have.
        assets: Names of the files that it reads; see :mod:`mbv2kit.lab.benchmark.assets`.
        madds: Multiply-adds of the network in one call, if known.
    """

    name: str
    group: Group
    precision: Precision = "fp32"
    library: str
    needs: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    madds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCompetitor(Competitor):
    """A competitor that a worker process calls repeatedly.

    Attributes:
        setup: ``module:function`` that returns a :class:`~mbv2kit.lab.benchmark.workload.Workload`; called with the
            options, ``threads`` and, if there are assets, ``files``: their paths by name.
        options: Further arguments of the function.
    """

    setup: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramCompetitor(Competitor):
    """A competitor whose processes are timed from start to end.

    Attributes:
        commands: Command lines by name, with the placeholders ``{python}``, ``{output}`` and ``{ASSET}``.
    """

    commands: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedProcess:
    """Measurements of a process that has ended successfully.

    Attributes:
        seconds: Time from start to end.
        megabytes: Peak resident memory, in 1e6 bytes.
        series: Resident memory over time: (seconds since the start, megabytes).
    """

    seconds: float
    megabytes: float
    series: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Competitors that do the same work.

    Attributes:
        job: Job that the case belongs to.
        name: Unique within the job.
        title: Heading of the table and plot.
        unit: Unit of the values: ``s`` or ``MB``.
        baseline: Name of the competitor that all are compared with, and the measure that stands in for those it lacks.
        competitors: All of the same type.
        evaluate: For :class:`ProgramCompetitor`: turns the processes of one round, by command, into values by measure.
        rounds: Upper limit; None for no limit.
        warm: For :class:`ProgramCompetitor`: names of the commands that run once, untimed, before the first round.
        notes: Sentences below the table.
    """

    job: str
    name: str
    title: str
    unit: str = "s"
    baseline: tuple[str, str]
    competitors: Sequence[FunctionCompetitor | ProgramCompetitor]
    evaluate: Callable[[Mapping[str, FinishedProcess]], Mapping[str, float]] | None = None
    rounds: int | None = None
    warm: tuple[str, ...] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        threads: Threads of each competitor.
        rounds: Number of turns of each competitor.
        slice: Seconds of a turn.
        warm_up: Longest warm-up in seconds.
        pythons: Interpreters by library, for those not installed in mbv2kit's environment.
        folder: Folder of the assets, which are kept from run to run.
    """

    threads: int
    rounds: int
    slice: float
    warm_up: float
    pythons: Mapping[str, str | None]
    folder: Path

    def interpreter(self, library: str) -> str:
        """Returns the interpreter that runs a library's competitors."""
        return self.pythons.get(library) or sys.executable
