"""The folder of a training run: the path of each file, and the newest run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mbv2kit.errors import UserError, nearest
from mbv2kit.models.folder import ModelFolder
from mbv2kit.schema import check_value, shown
from mbv2kit.schema.documents import read_json, read_yaml
from mbv2kit.schema.rules import HeadName, above
from mbv2kit.structures import TASKS

OUTPUTS = Path("outputs")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths within one run.

    Attributes:
        path: The run's folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The complete configuration of the run."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """The log that the run printed."""
        return self.path / "train.log"

    @property
    def epochs(self) -> Path:
        """The metrics of every epoch."""
        return self.path / "metrics.csv"

    @property
    def metrics(self) -> Path:
        """The final metrics; a run that has them is finished."""
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
        """Images with the ground truth next to the prediction."""
        return self.path / "predictions"

    def dataset(self, head: str) -> dict[str, Any] | None:
        """Returns the config of the data set that the run has for a head.

        None if the folder is not a run, or if the run keeps the head as its weights have it, without data.
        """
        if not self.config.is_file():
            return None
        config = self.read_config()
        check_value(f"{self.config}: datasets", config.get("datasets"), Mapping[str, Any] | None)
        own = config.get("datasets") or {}
        finetune = config.get("finetune")
        trained = finetune.get("train_only") if isinstance(finetune, Mapping) else None
        check_value(f"{self.config}: finetune.train_only", trained, Sequence[str] | None)
        if trained is not None and head not in trained and head not in own:
            return None
        dataset: Any
        key, dataset = (f"datasets.{head}", own[head]) if head in own else ("dataset", config.get("dataset"))
        check_value(f"{self.config}: {key}", dataset, Mapping[str, Any])
        return dict(dataset)

    @property
    def references(self) -> dict[str, float] | None:
        """The metric of each head that counts as 1 in the run's mean over several heads; None for 1 each."""
        if not self.config.is_file():
            return None
        task = self.read_config().get("task")
        found = task.get("references") if isinstance(task, Mapping) else None
        check_value(
            f"{self.config}: task.references", found, Mapping[HeadName, Annotated[float, above(0, 1_000_000)]] | None
        )
        return None if found is None else dict(found)

    def read_config(self) -> dict[str, Any]:
        """Reads the configuration as plain values, which refer to nothing: a run may come from someone else.

        Raises:
            UserError: The file cannot be read or is damaged, or refers to the environment or to other values.
        """
        values = read_yaml(self.config, "hold the configuration of a run")
        if reference := _reference(values):
            raise UserError(
                f"{self.config} refers to another value, {shown(reference)}, which no run of mbv2kit does; write the "
                "value itself."
            )
        return values

    @property
    def finished(self) -> bool:
        """Whether the run has a model and its metrics, which are written last."""
        return bool(_tasks(self)) and ModelFolder(self.model).exists


def newest_finished_run(task: str | None = None, outputs: Path = OUTPUTS) -> RunFolder:
    """Returns the run below ``outputs`` that finished last, of any task unless ``task`` is given.

    Raises:
        UserError: There is no such run; the message says how to train one.
    """
    runs = [RunFolder(path.parent) for path in outputs.glob("**/metrics.json")]
    tasks = {run: _tasks(run) for run in runs if run.finished}
    finished = [run for run, its in tasks.items() if task is None or task in its]
    if not finished and task is not None and task not in TASKS:
        known = dict.fromkeys((*TASKS, *(head for its in tasks.values() for head in its)))
        raise UserError(
            f"task={task}: no finished run below {outputs.resolve()} has such a head.{nearest(task, known)}"
        )
    if not finished:
        kind = f"{task} run" if task else "run"
        raise UserError(
            f"There is no finished {kind} below {outputs.resolve()}; train one first "
            f"(mbv2kit train task={task or 'classification'}) or name one with checkpoint=RUN_OR_MODEL_FOLDER."
        )
    return max(finished, key=lambda run: run.metrics.stat().st_mtime)


def find_model(checkpoint: str | None, task: str | None = None) -> ModelFolder | None:
    """Returns the model folder that a ``checkpoint`` key names.

    Args:
        checkpoint: A run folder, a model folder or a model file in one; None takes the newest finished run.
        task: Task of the newest run; None allows any task.

    Returns:
        The folder; None if the checkpoint is not a model of mbv2kit.

    Raises:
        UserError: ``checkpoint`` is None and there is no finished run, or it is a run that has not finished.
    """
    if checkpoint is None:
        return ModelFolder(newest_finished_run(task).model)
    path = Path(checkpoint)
    for folder in map(ModelFolder, (path, RunFolder(path).model, path.parent)):
        if folder.exists and (path.is_dir() or path.stem.partition("_")[0] == "model"):
            return folder
    if RunFolder(path).checkpoints.is_dir() and RunFolder(path).config.is_file():
        raise UserError(f"{path} is a run that has no model yet; finish it with mbv2kit train resume={path}")
    return None


def chosen_checkpoint(checkpoint: str | None, weights: str | None) -> str | None:
    """Returns the given one of two keys, which both name a model.

    Raises:
        UserError: Both are given.
    """
    if checkpoint is not None and weights is not None:
        raise UserError(f"checkpoint={checkpoint} and weights={weights} both name a model; give one of them.")
    return checkpoint if weights is None else weights


def _reference(value: Any) -> str | None:
    """Returns the first text that OmegaConf would replace by another value or a variable of the environment."""
    if isinstance(value, Mapping):
        return next(filter(None, map(_reference, [*value.keys(), *value.values()])), None)
    if isinstance(value, list):
        return next(filter(None, map(_reference, value)), None)
    return value if isinstance(value, str) and "${" in value else None


def _tasks(run: RunFolder) -> list[str]:
    """Returns the heads of a run's model, which are called as their tasks or by names; none if it has no metrics."""
    try:
        task = read_json(run.metrics, "hold metrics").get("task")
    except UserError:
        return []
    description = ModelFolder(run.model).description
    try:
        heads = read_json(description, "describe a model").get("heads") if description.is_file() else None
    except UserError:
        heads = None  # reported when the model is read
    if isinstance(heads, Mapping) and heads:
        return [str(each) for each in heads]
    return [task] if isinstance(task, str) else []
