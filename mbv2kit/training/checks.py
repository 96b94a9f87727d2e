"""Checks that the parts of a training config serve its task, before anything is read."""

from collections.abc import Mapping
from typing import Any

from mbv2kit.data.augment import PRESETS
from mbv2kit.errors import UserError
from mbv2kit.evaluation import EVALUATORS
from mbv2kit.heads import HEADS

# The field of a sample that holds the ground truth of a task.
_FIELDS: Mapping[str, str] = {"classification": "label", "detection": "boxes", "segmentation": "mask"}


def check_parts(config: Mapping[str, Any]) -> None:
    """Checks that head, augmentation and evaluator are for the task, and class names for weights.

    Raises:
        UserError: One is for another task, or ``class_names`` has no weights to name the classes of.
    """
    if config["class_names"] is not None and config["weights"] is None:
        raise UserError(
            f"class_names={config['class_names']} names the classes of weights=, and there are none; leave it out: a "
            "model that is trained has the classes of its data set."
        )
    task = config["task"]["name"]
    head = HEADS.get_class(config["head"]["name"])
    if head.task != task:
        raise UserError(
            f"head '{config['head']['name']}' does {head.task}, but task is {task}; choose a head for {task}: "
            f"{', '.join(name for name in HEADS.names() if HEADS.get_class(name).task == task)}."
        )
    preset = config["augment"]["preset"]
    if PRESETS.get_class(preset).needs not in (None, _FIELDS[task]):
        fitting = (name for name in PRESETS.names() if PRESETS.get_class(name).needs in (None, _FIELDS[task]))
        raise UserError(
            f"augment '{preset}' needs samples with '{PRESETS.get_class(preset).needs}', but task is {task}; choose "
            f"augment={' or augment='.join(fitting)}."
        )
    evaluator = config["evaluator"]
    if evaluator is not None and (other := EVALUATORS.get_class(evaluator["name"]).task) != task:
        raise UserError(f"evaluator '{evaluator['name']}' measures {other}, but the task is {task}.")
