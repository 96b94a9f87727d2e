"""The folder that a training run leaves behind: where each file lies, and which run is the newest."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mbv2kit.errors import UserError
from mbv2kit.models.folder import ModelFolder

OUTPUTS = Path("outputs")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths within one run (see the README's table of files).

    Attributes:
        path: The run's folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The whole configuration that the run was made with."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """What the run said on screen."""
        return self.path / "train.log"

    @property
    def metrics(self) -> Path:
        """The final figures; a run that has them is finished."""
        return self.path / "metrics.json"

    @property
    def model(self) -> Path:
        """The model folder: all that inference needs."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """``last.ckpt`` to resume from, and ``best.ckpt``."""
        return self.path / "checkpoints"

    @property
    def plots(self) -> Path:
        """Diagrams of the final evaluation."""
        return self.path / "plots"

    @property
    def predictions(self) -> Path:
        """Images with what the model sees in them, beside the ground truth."""
        return self.path / "predictions"

    def dataset(self) -> dict[str, Any] | None:
        """Returns the ``dataset`` config that the run was trained on; None where this is no run."""
        if not self.config.is_file():
            return None
        return OmegaConf.to_container(OmegaConf.load(self.config).dataset)  # type: ignore[return-value]

    @property
    def finished(self) -> bool:
        """Whether the run has a model and its figures."""
        return self.metrics.is_file() and ModelFolder(self.model).exists


def newest_finished_run(task: str | None = None, outputs: Path = OUTPUTS) -> RunFolder:
    """Returns the run below ``outputs`` that finished last, of ``task`` only where one is named.

    Raises:
        UserError: No such run is there; the message says what to run.
    """
    runs = [RunFolder(path.parent) for path in outputs.glob("**/metrics.json")]
    tasks = {run: _task(run) for run in runs if run.finished}
    finished = [run for run, its in tasks.items() if its is not None and task in (None, its)]
    if not finished:
        kind = f"{task} run" if task else "run"
        raise UserError(
            f"There is no finished {kind} below {outputs.resolve()}; train one first "
            f"(python tools/train.py task={task or 'classification'}) or name one with checkpoint=RUN_OR_MODEL_FOLDER."
        )
    return max(finished, key=lambda run: run.metrics.stat().st_mtime)


def find_model(checkpoint: str | None, task: str | None = None) -> ModelFolder | None:
    """Returns the model folder that a ``checkpoint`` key stands for.

    Args:
        checkpoint: A run folder, a model folder or a file of the model in one; None for the newest finished run.
        task: Which runs count where no checkpoint is named; None for all.

    Returns:
        The folder; None where the checkpoint is nothing of ours.

    Raises:
        UserError: No checkpoint is named and there is no finished run.
    """
    if checkpoint is None:
        return ModelFolder(newest_finished_run(task).model)
    path = Path(checkpoint)
    for folder in map(ModelFolder, (path, RunFolder(path).model, path.parent)):
        if folder.exists and (path.is_dir() or path.stem.partition("_")[0] == "model"):
            return folder
    return None


def chosen_checkpoint(checkpoint: str | None, weights: str | None) -> str | None:
    """Returns the one of two keys that is given: they name the same things, one as training calls its results.

    Raises:
        UserError: Both are given.
    """
    if checkpoint is not None and weights is not None:
        raise UserError(f"checkpoint={checkpoint} and weights={weights} both name a model; give one of them.")
    return checkpoint if weights is None else weights


def _task(run: RunFolder) -> str | None:
    """Returns the task that a run's figures are of; None where the file is damaged."""
    try:
        content = json.loads(run.metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    task = content.get("task") if isinstance(content, dict) else None
    return task if isinstance(task, str) else None
