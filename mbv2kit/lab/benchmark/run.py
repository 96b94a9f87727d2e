"""The job of ``tools/benchmark.py``: measures what is asked for and writes benchmark.json, benchmark.md and plots."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mbv2kit.errors import UserError, nearest
from mbv2kit.lab.benchmark.assets import Assets, asset_table
from mbv2kit.lab.benchmark.competitor import Case, Settings
from mbv2kit.lab.benchmark.goals import judge
from mbv2kit.lab.benchmark.interleave import run_case
from mbv2kit.lab.benchmark.jobs.catalog import JOBS, list_cases
from mbv2kit.lab.benchmark.jobs.models import OURS, Model, open_models
from mbv2kit.lab.benchmark.machine import describe_machine, versions
from mbv2kit.lab.benchmark.results import JSON_FILE, Results
from mbv2kit.lab.benchmark.tables import fill_page, write_page
from mbv2kit.lab.benchmark.wanted import goals
from mbv2kit.lab.benchmark.workers import CompetitorError, Worker
from mbv2kit.process import usable_cores
from mbv2kit.runs import OUTPUTS
from mbv2kit.structures import TASKS, Task

MARKDOWN_FILE = "benchmark.md"


def benchmark(config: DictConfig) -> None:
    """Measures, or writes the tables of a run that is over.

    Args:
        config: As composed from ``conf/benchmark.yaml``.

    Raises:
        UserError: A key is out of range, or names something that is not there.
    """
    page = _read_page(config.page)
    if config.results is not None:
        results = Results.load(Path(config.results))
        folder = Path(config.output or Path(config.results).parent)
    else:
        folder = Path(config.output or OUTPUTS / "benchmark" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
        results = _measure(config, folder)
    _write(results, folder)
    if page is not None:
        Path(config.page).write_text(fill_page(page, results), encoding="utf-8")
    verdicts = judge(goals(), results)
    for verdict in verdicts:
        if not verdict.reached:
            print(f"  not reached: {verdict.goal.job}, {verdict.goal.text}: {verdict.value.median:.3g}")
    print(f"{sum(verdict.reached for verdict in verdicts)} of {len(verdicts)} goals reached: {folder / MARKDOWN_FILE}")


def read_settings(config: DictConfig) -> Settings:
    """Checks the keys that say how to measure.

    Raises:
        UserError: One is out of range, or an interpreter is not there.
    """
    usable = usable_cores()
    threads = usable if config.threads is None else config.threads
    if not isinstance(threads, int) or not 1 <= threads <= usable:
        raise UserError(f"threads must be in 1..{usable}, the cores that this process may use, got {threads}.")
    if not isinstance(config.rounds, int) or config.rounds < 1:
        raise UserError(f"rounds must be a whole number from 1 up, got {config.rounds}.")
    for key in ("slice", "warm_up"):
        if config[key] is None or config[key] < 0:
            raise UserError(f"{key} must be seconds from 0 up, got {config[key]}.")
    for library, python in config.python.items():
        if python is not None and not os.access(python, os.X_OK):
            raise UserError(f"python.{library}: {python} is no interpreter; give the path of a python executable.")
    return Settings(
        threads=threads,
        rounds=config.rounds,
        slice=config.slice,
        warm_up=config.warm_up,
        # Competitors run in folders of their own; a virtual environment's link must not be followed.
        pythons={library: python and os.path.abspath(python) for library, python in config.python.items()},
        folder=Path(config.materials).resolve(),
    )


def _measure(config: DictConfig, folder: Path) -> Results:
    settings = read_settings(config)
    jobs = _job_names(config.jobs)
    ways = [[f"{key}={value}" for key, value in way.items()] for way in config.infer]
    published = None if config.shared is None else Path(config.shared, "data", "weights")
    cases = _with_chosen(list_cases(jobs, _models(config, jobs, settings), ways, published), config.contenders)
    assets = Assets(asset_table(_image_folder(config.pictures)), settings)
    asked = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    results = Results(machine=describe_machine(settings.threads), settings=asked, cases=[])
    folder.mkdir(parents=True, exist_ok=True)
    with _progress() as progress, _on_cores(settings.threads):
        bar = progress.add_task("", total=len(cases))
        for case in cases:

            def tell(text: str, case: Case = case) -> None:
                progress.update(bar, description=f"{case.job}, {case.name}: {text}")

            results.cases.append(run_case(case, settings, assets, tell))
            results.machine["versions"] = versions(results.cases)
            # What was measured stays, whatever comes next.
            results.save(folder / JSON_FILE)
            progress.advance(bar)
    return results


def _image_folder(folder: str | None) -> Path | None:
    return Path(folder).resolve() if folder is not None and Path(folder).is_dir() else None


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Keeps this process and those that it starts on some cores, for libraries that count cores by themselves."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _job_names(jobs: str | Sequence[str] | None) -> list[str]:
    names = list(JOBS) if jobs is None else _several(jobs)
    for name in names:
        if name not in JOBS:
            raise UserError(f"There is no job '{name}'.{nearest(name, JOBS)}")
    return names


def _several(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(map(str, value or ()))


def _models(config: DictConfig, jobs: Sequence[str], settings: Settings) -> dict[Task, list[Model]]:
    def multiply_adds(folder: Path) -> int | None:
        try:
            with Worker(settings.interpreter("mbv2kit"), f"{OURS}:multiply_adds", {"folder": str(folder)}) as worker:
                return int(worker.facts["madds"])
        except CompetitorError:
            return None

    tasks = {JOBS[job] for job in jobs}
    return {task: open_models(task, _several(config.models[task]), multiply_adds) for task in TASKS if task in tasks}


def _with_chosen(cases: Sequence[Case], patterns: str | Sequence[str] | None) -> list[Case]:
    """Leaves of each case the competitors that fit a pattern, and its baseline."""
    if patterns is None:
        return list(cases)
    wanted = _several(patterns)
    for pattern in wanted:
        if not any(fnmatch(each.name, pattern) for case in cases for each in case.competitors):
            names = {each.name for case in cases for each in case.competitors}
            raise UserError(f"contenders: no competitor of these jobs fits '{pattern}'.{nearest(pattern, names)}")
    return [
        replace(
            case,
            competitors=[
                each
                for each in case.competitors
                if each.name == case.baseline[0] or any(fnmatch(each.name, pattern) for pattern in wanted)
            ],
        )
        for case in cases
    ]


def _read_page(page: str | None) -> str | None:
    if page is None:
        return None
    try:
        return Path(page).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"page={page} cannot be read ({error.strerror}); name a page with places for tables.") from None


def _write(results: Results, folder: Path) -> None:
    # Diagrams take seconds to import.
    from mbv2kit.lab.benchmark.plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKDOWN_FILE).write_text(write_page(results), encoding="utf-8")
    draw(results, folder)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, disable=not console.is_terminal)
