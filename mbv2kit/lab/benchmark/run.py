"""The job of ``mbv2kit benchmark``: measures competitors and writes benchmark.json, benchmark.md and plots."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mbv2kit.cli.console import open_console
from mbv2kit.errors import UserError, nearest
from mbv2kit.lab.benchmark.assets import AssetStore, asset_table
from mbv2kit.lab.benchmark.competitor import Case, Settings
from mbv2kit.lab.benchmark.interleave import run_case
from mbv2kit.lab.benchmark.jobs.catalog import JOBS, list_cases
from mbv2kit.lab.benchmark.jobs.models import MODELS, Model, open_models
from mbv2kit.lab.benchmark.machine import describe_machine, versions
from mbv2kit.lab.benchmark.results import JSON_FILE, Results
from mbv2kit.lab.benchmark.tables import fill_page, write_page
from mbv2kit.lab.benchmark.worker import CompetitorError, Worker
from mbv2kit.models.run_folder import OUTPUTS
from mbv2kit.process import usable_cores
from mbv2kit.structures import TASKS, Task

MARKDOWN_FILE = "benchmark.md"


def benchmark(config: DictConfig) -> None:
    """Measures, or writes the tables and plots of an earlier run again.

    Args:
        config: Configuration composed from ``conf/benchmark.yaml``.

    Raises:
        UserError: A key is out of range, or names something that does not exist.
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
    print(f"Results: {folder / MARKDOWN_FILE}")


def read_settings(config: DictConfig) -> Settings:
    """Reads and checks the keys that control the measurement.

    Raises:
        UserError: A key is out of range, or an interpreter does not exist.
    """
    usable = usable_cores()
    threads = usable if config.threads is None else config.threads
    if threads > usable:
        raise UserError(f"threads must be in 1..{usable}, the cores that this process may use, got {threads}.")
    for library, python in config.python.items():
        if python is not None and not os.access(python, os.X_OK):
            raise UserError(f"python.{library}: {python} is no interpreter; give the path of a python executable.")
    return Settings(
        threads=threads,
        rounds=config.rounds,
        slice=config.slice,
        warm_up=config.warm_up,
        # Absolute, because competitors run in other folders; not resolved: Python finds its environment by the link.
        pythons={library: python and os.path.abspath(python) for library, python in config.python.items()},
        folder=Path(config.materials).resolve(),
    )


def _measure(config: DictConfig, folder: Path) -> Results:
    settings = read_settings(config)
    jobs = _job_names(config.jobs)
    infer_options = [[f"{key}={value}" for key, value in keys.items()] for keys in config.infer]
    published = None if config.shared is None else Path(config.shared, "data", "weights")
    cases = _select_competitors(
        list_cases(jobs, _models(config, jobs, settings), infer_options, published), config.contenders
    )
    assets = AssetStore(asset_table(_image_folder(config.pictures)), settings)
    asked = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    results = Results(machine=describe_machine(settings.threads), settings=asked, cases=[])
    folder.mkdir(parents=True, exist_ok=True)
    with _progress() as progress, _on_cores(settings.threads):
        bar = progress.add_task("", total=len(cases))
        for case in cases:

            def notify(text: str, case: Case = case) -> None:
                progress.update(bar, description=f"{case.job}, {case.name}: {text}")

            results.cases.append(run_case(case, settings, assets, notify))
            results.machine["versions"] = versions(results.cases)
            # Saved after each case, so that a later failure loses nothing.
            results.save(folder / JSON_FILE)
            progress.advance(bar)
    return results


def _image_folder(folder: str | None) -> Path | None:
    return Path(folder).resolve() if folder is not None and Path(folder).is_dir() else None


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Restricts this process and its children to some cores, for libraries that use all that they see."""
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
            with Worker(settings.interpreter("mbv2kit"), f"{MODELS}:multiply_adds", {"folder": str(folder)}) as worker:
                return int(worker.facts["madds"])
        except CompetitorError:
            return None

    tasks = {JOBS[job] for job in jobs}
    return {task: open_models(task, _several(config.models[task]), multiply_adds) for task in TASKS if task in tasks}


def _select_competitors(cases: Sequence[Case], patterns: str | Sequence[str] | None) -> list[Case]:
    """Keeps in each case the baseline and the competitors that match a pattern."""
    if patterns is None:
        return list(cases)
    patterns = _several(patterns)
    for pattern in patterns:
        if not any(fnmatch(each.name, pattern) for case in cases for each in case.competitors):
            names = {each.name for case in cases for each in case.competitors}
            raise UserError(f"contenders: no competitor of these jobs matches '{pattern}'.{nearest(pattern, names)}")
    return [
        replace(
            case,
            competitors=[
                each
                for each in case.competitors
                if each.name == case.baseline[0] or any(fnmatch(each.name, pattern) for pattern in patterns)
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
        raise UserError(
            f"page={page} cannot be read ({error.strerror}); name a Markdown page with places for tables."
        ) from None


def _write(results: Results, folder: Path) -> None:
    # Importing matplotlib takes seconds.
    from mbv2kit.lab.benchmark.plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKDOWN_FILE).write_text(write_page(results), encoding="utf-8")
    draw(results, folder)


def _progress() -> Progress:
    console = open_console(stderr=True)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    return Progress(*columns, console=console, disable=not console.is_terminal)
