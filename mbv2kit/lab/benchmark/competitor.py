"""What a benchmark compares: competitors, and the cases in which they meet. No library of a competitor is imported."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Group = Literal["ours", "by hand", "peer"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Competitor:
    """One way to do the work of a case.

    Attributes:
        name: Unlike any other of the case.
        group: ``ours``; ``by hand``: a runtime by its plain API, as a good user would write it; ``peer``: a library as
            it comes.
        precision: In which numbers it computes; ``fp16`` stands for half floats of either kind.
        library: Whose interpreter it runs in, by the keys of ``python``.
        needs: Packages that must be importable there.
        assets: Names of the files that it reads (see :mod:`mbv2kit.lab.benchmark.assets`).
        madds: Multiply-adds of one call's network, where they are known.
    """

    name: str
    group: Group
    precision: Precision = "fp32"
    library: str
    needs: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    madds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls(Competitor):
    """A competitor that stays alive in a worker and is called again and again.

    Attributes:
        setup: ``module:function`` below :mod:`mbv2kit.lab.benchmark.competitors`; it gives a
            :class:`~mbv2kit.lab.benchmark.setup.Ready`.
        options: What it is called with, beside ``threads`` and, where it has materials, ``files``: path by name.
    """

    setup: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands(Competitor):
    """A competitor whose processes are run from their start to their end.

    Attributes:
        commands: By name; ``{python}``, ``{output}`` and ``{MATERIAL}`` in an argument are filled in.
    """

    commands: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A process that has ended well.

    Attributes:
        seconds: From its start to its end.
        megabytes: The most memory that it held at a time (resident, in 1e6 bytes).
        series: Resident megabytes as they went, each with the seconds since the start.
    """

    seconds: float
    megabytes: float
    series: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Competitors that do the same work.

    Attributes:
        job: The job it belongs to.
        name: Unlike any other of the job.
        title: What is measured, for people.
        unit: Of the values: ``s`` or ``MB``.
        baseline: Name of the competitor that all are compared with, and which of its measures stands for those that it
            lacks.
        competitors: All of one kind.
        evaluate: For :class:`Commands`: what the processes of one round say, by the name of the measure.
        rounds: At the most; None for as many as are asked for.
        warm: For :class:`Commands`: names of those that run once before any counts.
        notes: Sentences below the table.
    """

    job: str
    name: str
    title: str
    unit: str = "s"
    baseline: tuple[str, str]
    competitors: Sequence[Calls | Commands]
    evaluate: Callable[[Mapping[str, Finished]], Mapping[str, float]] | None = None
    rounds: int | None = None
    warm: tuple[str, ...] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        threads: That each competitor may use.
        rounds: How often every competitor has its turn.
        slice: Seconds of a turn.
        warm_up: Seconds after which a competitor that has not settled is measured all the same.
        pythons: Interpreters by library, for those that are not installed beside mbv2kit.
        folder: For materials, which are kept from run to run.
    """

    threads: int
    rounds: int
    slice: float
    warm_up: float
    pythons: Mapping[str, str | None]
    folder: Path

    def interpreter(self, library: str) -> str:
        """Returns the Python that a library's competitors run in."""
        return self.pythons.get(library) or sys.executable
