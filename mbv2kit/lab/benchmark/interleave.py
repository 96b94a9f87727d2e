"""Competitors in turn, A B A B, only one of them computing at a time."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median

from mbv2kit.lab.benchmark.assets import Assets
from mbv2kit.lab.benchmark.competitor import Calls, Case, Commands, Competitor, Settings
from mbv2kit.lab.benchmark.launch import run_command
from mbv2kit.lab.benchmark.ratios import settled
from mbv2kit.lab.benchmark.results import CaseResult, Row
from mbv2kit.lab.benchmark.workers import CompetitorError, SkippedError, Worker

Tell = Callable[[str], None]
# One turn of a contender: a value for each measure.
Turn = Callable[[], Mapping[str, float]]


def run_case(case: Case, settings: Settings, assets: Assets, tell: Tell) -> CaseResult:
    """Measures a case; a competitor that is not installed or fails has the reason in its row, and the rest goes on.

    Args:
        case: What to measure.
        settings: How.
        assets: Where the competitors' files are, or are made.
        tell: Is told what is being done.
    """
    rows = {each.name: _row(each) for each in case.competitors}
    rounds = min(settings.rounds, case.rounds or settings.rounds)
    turns: dict[str, Turn] = {}
    with ExitStack() as workers:
        for competitor in case.competitors:
            tell(f"{competitor.name}: getting ready")
            with _problems_in(rows[competitor.name]):
                if isinstance(competitor, Calls):
                    turns[competitor.name] = _start(competitor, rows[competitor.name], settings, assets, workers)
                else:
                    turns[competitor.name] = _prepare(competitor, case, rows[competitor.name], settings, assets)
        for number in range(rounds):
            # Every second round runs backwards: what drifts steadily then hits early and late ones alike.
            for name in list(turns)[:: -1 if number % 2 else 1]:
                tell(f"round {number + 1} of {rounds}: {name}")
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
    """Turns a competitor's failure into its row's problem; rounds that others went on with are worth nothing then."""
    try:
        yield
    except CompetitorError as error:
        row.problem = f"{'skipped' if isinstance(error, SkippedError) else 'failed'}: {error}"
        row.rounds.clear()


def _start(competitor: Calls, row: Row, settings: Settings, assets: Assets, workers: ExitStack) -> Turn:
    """Starts a worker, warms it up and leaves it stopped."""
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
    """Lets a competitor run until its turns take equally long, and returns the median of each turn.

    For some seconds after the start of a process all its threads may sit on one core, and what it does for the first
    time takes longer.
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


def _prepare(competitor: Commands, case: Case, row: Row, settings: Settings, assets: Assets) -> Turn:
    """Runs a process or two untimed: what they read is then in the system's cache, and what they compile is kept."""
    python = settings.interpreter(competitor.library)
    # A worker with nothing in it says which packages are missing.
    with Worker(python, "mbv2kit.lab.benchmark.setup:nothing", {}, competitor.needs):
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
