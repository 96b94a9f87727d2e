"""What a training run is about to do: its folder, its configuration and the number format it trains for."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mbv2kit.data.sources import check_source
from mbv2kit.errors import UserError
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.training.checks import check_parts
from mbv2kit.training.parts import training_parts
from mbv2kit.training.qat import FloatTraining, create_qat
from mbv2kit.training.resume import resumed_config

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training run before its first step.

    Attributes:
        run: The folder that the run writes.
        config: The whole configuration. The weights and the data complete it.
        qat: What quantization-aware training does at each stage of the run; nothing if it is off.
        done: Whether the run has already finished, so that there is nothing to train.
    """

    run: RunFolder
    config: DictConfig
    qat: FloatTraining
    done: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The configuration as plain values, with all references resolved."""
        return OmegaConf.to_container(self.config, resolve=True)  # type: ignore[return-value]

    @property
    def last(self) -> Path:
        """Checkpoint of the last epoch, or of the step at which a signal stopped the run."""
        return self.run.checkpoints / "last.ckpt"

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
        UserError: The data set's folder is not there, ``run_dir`` holds another run, or
            ``resume`` does not fit its run.
    """
    if config.resume is None:
        config = config.copy()
        config.plugins = _plugins(config)
        run, done = RunFolder(Path(config.run_dir)), False
        if run.config.exists():
            raise UserError(f"run_dir={run.path} holds a run; name another folder, or go on with resume={run.path}.")
    else:
        run = RunFolder(Path(config.resume))
        config = resumed_config(run, overrides)
        done = run.finished and config.trainer.max_epochs <= run.read_config()["trainer"]["max_epochs"]
        if done:
            _log.info("the run in %s is finished; set a larger trainer.max_epochs to go on", run.path)
    if not done:
        check_parts(config)
        check_source(config.dataset.name, config.task.name, config.dataset.root)
    return Plan(run=run, config=config, qat=create_qat(config), done=done)


def _plugins(config: DictConfig) -> list[str]:
    """Returns the plugins that are named, and those whose parts are chosen; resuming asks for them."""
    parts = [(registry, config[registry.group]) for registry in training_parts()]
    chosen = (registry.package(part[registry.name_key]) for registry, part in parts if part is not None)
    return sorted({*config.plugins, *filter(None, chosen)})
