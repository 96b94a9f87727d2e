"""A training run, from the configuration to the run folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from signal import Signals

from omegaconf import DictConfig

from mbv2kit.cli.logs import job_log
from mbv2kit.data.workers import worker_deaths_told
from mbv2kit.models.run_claim import new_run, old_run, tidy
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.process import keep_freed_memory, objects_left_alone
from mbv2kit.training.continuing import check_continues, check_fits, open_last
from mbv2kit.training.data import open_data
from mbv2kit.training.finish import finish
from mbv2kit.training.fit import create_trainer, fit
from mbv2kit.training.model import create_task
from mbv2kit.training.plan import Plan, resolve
from mbv2kit.training.start import open_start


def train(config: DictConfig, overrides: Sequence[str] = ()) -> RunFolder:
    """Trains the model that a config describes and leaves a run folder.

    With ``resume`` an existing run continues under its own config; keys on the command line change it, such as a
    larger ``trainer.max_epochs``. A finished run stays as it is.

    Args:
        config: As composed from ``conf/train.yaml``.
        overrides: The ``key=value`` that it was composed with: what changes in a run that is resumed.

    Returns:
        The run folder. ``finished`` is False where a signal stopped the run, whose state is saved.

    Raises:
        UserError: Something in the config or the data cannot be used, which leaves no run folder; or training failed.
    """
    return train_or_stop(config, overrides)[0]


@job_log()
@worker_deaths_told()
@objects_left_alone()
def train_or_stop(config: DictConfig, overrides: Sequence[str] = ()) -> tuple[RunFolder, Signals | None]:
    """Trains as :func:`train` does, and returns the signal as well that stopped the run."""
    keep_freed_memory()
    plan = resolve(config, overrides)
    if plan.done:
        tidy(plan.run)
        return plan.run, None
    with _own(plan, overrides) as plan:
        trainer = create_trainer(plan)
        last = open_last(plan)
        plan, start = open_start(plan)
        plan, data = open_data(plan)
        if last is not None:
            check_continues(plan, last, data)
        task = create_task(plan, data, start, last)
        if last is not None:
            check_fits(plan, last, task)
        stopped = fit(trainer, plan, task, data, last)
        if stopped is None:
            finish(plan, task, data, trainer.strategy.root_device)
    return plan.run, stopped


@contextmanager
def _own(plan: Plan, overrides: Sequence[str]) -> Iterator[Plan]:
    """Owns the run's folder while the run lasts; a default name may get a number."""
    if plan.resumed:
        with old_run(plan.run):
            yield plan
        return
    named = any(each.startswith("run_dir=") for each in overrides)
    with new_run(plan.run.path, named=named) as run:
        config = plan.config.copy()
        config.run_dir = str(run.path)
        yield replace(plan, run=run, config=config)
