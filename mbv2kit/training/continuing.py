"""What a run that goes on must have in common with its last checkpoint; checked before anything is written."""

from collections.abc import Mapping
from typing import Any

from mbv2kit.data.datamodule import DataModule
from mbv2kit.errors import UserError, first_few
from mbv2kit.training.checkpoints import between_epochs, read_checkpoint
from mbv2kit.training.plan import Plan
from mbv2kit.training.task import VisionTask

Checkpoint = Mapping[str, Any]

_ORDER_KEYS = {"batch_size": "loader.batch_size", "seed": "seed", "shuffle_window": "dataset.shuffle_window"}


def open_last(plan: Plan) -> Checkpoint | None:
    """Reads the checkpoint that a run goes on from; None for a run that has none yet.

    Raises:
        UserError: It is damaged, or more epochs are done than the run is to have.
    """
    if not plan.last.is_file() and _in_first_epoch(plan):
        return None
    checkpoint = read_checkpoint(plan.last)
    begun, wanted = checkpoint["epoch"] + 1, plan.config.trainer.max_epochs
    if wanted < begun:
        raise UserError(
            f"trainer.max_epochs={wanted}, but the run in {plan.run.path} is in epoch {begun} already; set it to "
            f"{begun} or more."
        )
    return checkpoint


def _in_first_epoch(plan: Plan) -> bool:
    """Returns whether a run without a last checkpoint has none yet: that of the first epoch is written last of all."""
    table = plan.run.epochs
    rows = len(table.read_bytes().splitlines()) - 1 if table.is_file() else 0
    return rows <= 1


def check_continues(plan: Plan, checkpoint: Checkpoint, data: DataModule) -> None:
    """Checks that the data are those that the checkpoint is of.

    Raises:
        UserError: The classes are others; or the checkpoint lies within an epoch that would go on with other batches.
    """
    for head, names in data.train.class_names.items():
        known, found = checkpoint.get("class_names", {}).get(head), list(names)
        if known is not None and known != found:
            what = "in another order" if sorted(known) == sorted(found) else "instead"
            raise UserError(
                f"resume={plan.run.path}: the run knows the classes {first_few(known)} ({len(known)}), the data set "
                f"has {first_few(found)} ({len(found)}) {what}; restore them, or train a new run with "
                f"weights={plan.run.path}."
            )
    if between_epochs(checkpoint):
        return
    limit = plan.config.trainer.limit_train_batches
    now = data.order | {"batches": min(data.steps_per_epoch, limit or data.steps_per_epoch)}
    for key, value in now.items():
        before = checkpoint["DataModule"].get(key, value)
        if before != value:
            name = _ORDER_KEYS.get(key, f"number of {key}")
            raise UserError(
                f"resume={plan.run.path}: the run stopped within epoch {checkpoint['epoch'] + 1}, whose {name} was "
                f"{before} and is {value} now; finish that epoch as it began (trainer.max_epochs="
                f"{checkpoint['epoch'] + 1}), and change it then."
            )


def check_fits(plan: Plan, checkpoint: Checkpoint, task: VisionTask) -> None:
    """Checks that the tensors of a checkpoint are those of the model and the optimizer.

    Raises:
        UserError: The checkpoint is of another network.
    """
    ours, theirs = task.state_dict(), checkpoint["state_dict"]
    unlike = [name for name in {**ours, **theirs} if _shape(ours.get(name)) != _shape(theirs.get(name))]
    groups = [len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"]]
    if unlike or groups != [len(group["params"]) for group in task.optimizer.param_groups]:
        what = first_few(unlike) if unlike else "the groups of the optimizer"
        raise UserError(f"{plan.last} does not fit {plan.run.config.name}: it is of another network ({what}).")


def _shape(tensor: Any) -> Any:
    return None if tensor is None else tuple(tensor.shape)
