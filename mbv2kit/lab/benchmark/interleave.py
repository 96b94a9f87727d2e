"""Runs competitors in turn (A B A B), one at a time."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median

from mbv2kit.lab.benchmark.assets import AssetStore
from mbv2kit.lab.benchmark.competitor import Case, Competitor, FunctionCompetitor, ProgramCompetitor, Settings
from mbv2kit.lab.benchmark.launch import run_command
from mbv2kit.lab.benchmark.ratios import settled
from mbv2kit.lab.benchmark.results import CaseResult, Row
from mbv2kit.lab.benchmark.worker import CompetitorError, SkippedError, Worker

Notify = Callable[[str], None]
# One turn of a competitor; returns a value for each measure.
Turn = Callable[[], Mapping[str, float]]


def run_case(case: Case, settings: Settings, assets: AssetStore, notify: Notify) -> CaseResult:
    """Measures a case. A competitor that is not installed or fails gets the reason in its row; the others go on.

    Args:
        case: What to measure.
        settings: How to measure.
        assets: Source of the files that competitors read.
        notify: Called with a short text at each step.
    """
    rows = {each.name: _row(each) for each in case.competitors}
    rounds = min(settings.rounds, case.rounds or settings.rounds)
    turns: dict[str, Turn] = {}
    with ExitStack() as workers:
        for competitor in case.competitors:
            notify(f"{competitor.name}: setting up")
            with _problems_in(rows[competitor.name]):
                if isinstance(competitor, FunctionCompetitor):
                    turns[competitor.name] = _start(competitor, rows[competitor.name], settings, assets, workers)
                else:
                    turns[competitor.name] = _prepare(competitor, case, rows[competitor.name], settings, assets)
        for number in range(rounds):
            # Every second round runs backwards, so that a steady drift affects all competitors equally.
            for name in list(turns)[:: -1 if number % 2 else 1]:
                notify(f"round {number + 1} of {rounds}: {name}")
                with _problems_in(rows[name]):
                    for measure, value in turns[name]().items():
                        rows[name].rounds.setdefault(measure, []).append(value)
                if rows[name].problem is not None:
                    del turns[name]
    return CaseResult(
        job=case.job,
        name=case.name,
        title=case.title,
        unit=case.unit,
        baseline=case.baseline,
        notes=tuple(case.notes),
        rows=list(rows.values()),
    )


def _row(competitor: Competitor) -> Row:
    return Row(name=competitor.name, group=competitor.group, precision=competitor.precision, madds=competitor.madds)


@contextmanager
def _problems_in(row: Row) -> Iterator[None]:
    """Records a competitor's failure in its row and drops its earlier rounds, which pair with nothing then."""
    try:
        yield
    except CompetitorError as error:
        row.problem = f"{'skipped' if isinstance(error, SkippedError) else 'failed'}: {error}"
        row.rounds.clear()


def _start(
    competitor: FunctionCompetitor, row: Row, settings: Settings, assets: AssetStore, workers: ExitStack
) -> Turn:
    """Starts a worker, warms it up and suspends it."""
    files = {name: str(assets.path(name)) for name in competitor.assets}
    options = {**competitor.options, "threads": settings.threads, **({"files": files} if files else {})}
    worker = workers.enter_context(
        Worker(settings.interpreter(competitor.library), competitor.setup, options, competitor.needs)
    )
    row.facts.update(worker.facts)
    for measure in worker.measures:
        row.facts.setdefault("warm_up", {})[measure] = warm_up(partial(worker.time, measure), settings)
    worker.stop()
    return partial(_call, worker, settings.slice)


def warm_up(time: Callable[[float], list[float]], settings: Settings) -> list[float]:
    """Runs a competitor until its turns take equally long, and returns the median of each turn.

    First calls take longer, and for some seconds after a process starts the system may run all its threads on one core.
    """
    medians: list[float] = []
    spent = 0.0
    while spent < settings.warm_up and not settled(medians):
        times = time(settings.slice)
        medians.append(median(times))
        spent += sum(times)
    return medians


def _call(worker: Worker, seconds: float) -> dict[str, float]:
    worker.resume()
    found = {measure: median(worker.time(measure, seconds)) for measure in worker.measures}
    worker.stop()
    return found


def _prepare(competitor: ProgramCompetitor, case: Case, row: Row, settings: Settings, assets: AssetStore) -> Turn:
    """Runs some processes untimed, to fill the disk cache and any cache of compiled code."""
    python = settings.interpreter(competitor.library)
    # A worker with an empty workload reports missing packages.
    with Worker(python, "mbv2kit.lab.benchmark.workload:empty", {}, competitor.needs):
        pass
    places = {name: str(assets.path(name)) for name in competitor.assets} | {"python": python}

    def turn() -> Mapping[str, float]:
        assert case.evaluate is not None
        done = {name: run_command(command, places) for name, command in competitor.commands.items()}
        row.facts["series"] = {name: each.series for name, each in done.items()}
        return case.evaluate(done)

    for name in case.warm:
        run_command(competitor.commands[name], places)
    return turn
