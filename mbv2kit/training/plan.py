"""What a training run is about to do: its folder, its configuration and the number format it trains for."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mbv2kit.data.sources import check_source
from mbv2kit.files.urls import is_url
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.structures import Task
from mbv2kit.training.changes import changed_keys
from mbv2kit.training.checkpoints import LAST, is_over, read_checkpoint
from mbv2kit.training.checks import check_cache, check_loader, check_parts, heads_of, tasks_of
from mbv2kit.training.parts import training_parts
from mbv2kit.training.qat import FloatTraining, create_qat
from mbv2kit.training.resume import resumed_config, with_defaults

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training run before its first step.

    Attributes:
        run: The folder that the run writes.
        config: The whole configuration. The weights and the data complete it.
        qat: What quantization-aware training does at each stage of the run; nothing if it is off.
        resumed: Whether the folder is that of an earlier run.
        done: Whether the run has already finished, so that there is nothing to train.
    """

    run: RunFolder
    config: DictConfig
    qat: FloatTraining
    resumed: bool = False
    done: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The configuration as plain values, with all references resolved."""
        return OmegaConf.to_container(self.config, resolve=True)  # type: ignore[return-value]

    @property
    def heads(self) -> dict[str, dict[str, Any]]:
        """The options of each head."""
        return heads_of(self.options)

    @property
    def tasks(self) -> dict[str, Task]:
        """The task of each head."""
        return tasks_of(self.options)

    @property
    def datasets(self) -> dict[str, dict[str, Any]]:
        """The options of the data set of each head that is trained."""
        options = self.options
        own = options["datasets"] or {}
        trained = options["finetune"].get("train_only") or heads_of(options)
        return {head: own.get(head, options["dataset"]) for head in heads_of(options) if head in trained}

    @property
    def last(self) -> Path:
        """Checkpoint of the last epoch, or of the step at which a signal stopped the run."""
        return self.run.checkpoints / LAST

    @property
    def best(self) -> Path:
        """Checkpoint of the epoch with the best validation metric."""
        return self.run.checkpoints / "best.ckpt"


def resolve(config: DictConfig, overrides: Sequence[str] = ()) -> Plan:
    """Finds the run folder and the configuration that apply, and checks what needs neither weights nor data.

    Args:
        config: As composed.
        overrides: The ``key=value`` that the config was composed with: what changes in a run that is resumed.

    Raises:
        UserError: The data set's folder is not there, or ``resume`` does not fit its run.
    """
    resumed = config.resume is not None
    if not resumed:
        config = config.copy()
        config.plugins = _plugins(config)
        run, done = RunFolder(Path(config.run_dir)), False
    else:
        run = RunFolder(Path(config.resume))
        config = resumed_config(run, overrides, config)
        done = run.finished and not _goes_on(run, config)
        if done:
            _tell_done(run, config)
    _complete_sets(config)
    _make_absolute(config)
    plan = Plan(run=run, config=config, qat=create_qat(config), resumed=resumed, done=done)
    if not done:
        check_parts(config)
        check_loader(config, plan.datasets)
        tasks = plan.tasks
        for head, dataset in plan.datasets.items():
            key = f"datasets.{head}" if head in (config.datasets or {}) else "dataset"
            check_source(dataset["name"], tasks[head], dataset["root"], key)
            check_cache(dataset, key)
    return plan


def _goes_on(run: RunFolder, config: DictConfig) -> bool:
    """Returns whether a finished run has epochs left that its old configuration did not want."""
    before, now = run.read_config()["trainer"], config.trainer
    if now.max_epochs > before["max_epochs"]:
        return True
    # A run that stopped early goes on where patience is longer now, or there is none.
    if now.early_stopping_patience == before.get("early_stopping_patience"):
        return False
    checkpoint = read_checkpoint(run.checkpoints / LAST)
    return not is_over(checkpoint, now.max_epochs, now.early_stopping_patience)


def _tell_done(run: RunFolder, config: DictConfig) -> None:
    changed = changed_keys(run.read_config(), OmegaConf.to_container(config))  # type: ignore[arg-type]
    unused = f", and {', '.join(changed)} would change nothing" if changed else ""
    _log.info("the run in %s is finished%s; set a larger trainer.max_epochs to go on", run.path, unused)


def _complete_sets(config: DictConfig) -> None:
    """Adds the options that an experiment left out of a head or data set that it names."""
    for registry in training_parts():
        for head, part in (config.get(registry.several or "") or {}).items():
            OmegaConf.update(config, f"{registry.several}.{head}", with_defaults(registry, dict(part)), force_add=True)


def _make_absolute(config: DictConfig) -> None:
    """Makes the folders of the user absolute, so that the run can be resumed and evaluated from anywhere."""
    for dataset in (config.dataset, *(config.datasets or {}).values()):
        if dataset is not None and dataset.get("root") is not None and not is_url(str(dataset.root)):
            dataset.root = str(Path(dataset.root).expanduser().absolute())
    if isinstance(config.weights, str) and Path(config.weights).exists():
        config.weights = str(Path(config.weights).absolute())


def _plugins(config: DictConfig) -> list[str]:
    """Returns the plugins that are named, and those whose parts are chosen; resuming asks for them."""
    parts = [(registry, config[registry.group]) for registry in training_parts()]
    parts += [(registry, part) for registry, _ in parts for part in (config.get(registry.several or "") or {}).values()]
    chosen = (registry.package(part[registry.name_key]) for registry, part in parts if part is not None)
    return sorted({*config.plugins, *filter(None, chosen)})
