"""A training run, from the configuration to the run folder."""

from collections.abc import Sequence

from omegaconf import DictConfig

from mbv2kit.cli.logs import job_log
from mbv2kit.data.workers import worker_deaths_told
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.process import keep_freed_memory
from mbv2kit.training.data import open_data
from mbv2kit.training.finish import finish
from mbv2kit.training.fit import create_trainer, fit
from mbv2kit.training.model import create_task
from mbv2kit.training.plan import resolve
from mbv2kit.training.start import open_start


@job_log()
@worker_deaths_told()
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
    keep_freed_memory()
    plan = resolve(config, overrides)
    if plan.done:
        return plan.run
    trainer = create_trainer(plan)
    plan, start = open_start(plan)
    plan, data = open_data(plan)
    task = create_task(plan, data, start)
    if fit(trainer, plan, task, data):
        finish(plan, task, data)
    return plan.run
