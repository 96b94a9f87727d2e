"""The description of a model without its weights: the content of ``model.json``, which is read without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.schema import check_value
from mbv2kit.schema.rules import FILLED, HeadName, Mean, Name, Rule, Std
from mbv2kit.structures import Task, tasks_of_heads

SCHEMA_VERSION = 1

# A backbone or head: its name, and options that its registry checks before it is built.
Part = Annotated[Mapping[str, Any], Rule("with a name", lambda part: isinstance(part.get("name"), str))]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything about a model but its weights; the content of ``model.json``.

    Attributes:
        backbone: ``name`` and the arguments of its constructor.
        heads: For each head, which is called as its task unless it has a name of its own, ``name`` and the arguments of
            its constructor.
        class_names: For each head the names of its classes, by class id.
        input: How an image becomes the network's input.
        mean: Value that is subtracted from each of the three channels, in 0..255.
        std: Value by which each channel is divided, in 0..255.
        plugins: Packages outside mbv2kit that register its backbone and heads.
        origin: Origin of the model (the run, its metrics, a license), for people.
        tasks: The task of each head; needed of those with a name of their own.

    Raises:
        UserError: The task of a head is unknown.
    """

    backbone: Part
    heads: Annotated[Mapping[HeadName, Part], FILLED]
    class_names: Annotated[Mapping[HeadName, Annotated[Sequence[str], FILLED]], FILLED]
    input: Preprocess
    mean: Mean = (127.5, 127.5, 127.5)
    std: Std = (127.5, 127.5, 127.5)
    plugins: Sequence[Name] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[HeadName, Task] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tasks_of_heads(self.class_names, self.tasks))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain containers, ready for JSON."""
        values = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        values["tasks"] = {head: task for head, task in self.tasks.items() if head != task}
        return {key: value for key, value in values.items() if value or key not in ("plugins", "tasks")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """Reads what :meth:`to_dict` wrote.

        Raises:
            UserError: A value is missing or of another kind, or a head has no class names.
            TypeError: ``input`` has another key.
        """
        values = {"plugins": [], "tasks": {}, **values}
        if isinstance(values.get("input"), Mapping):
            # Folders of before this key was there lack it.
            values["input"] = {"interpolation": "smooth", **values["input"]}
        check_value("", values, cls, complete=True)
        if values["heads"].keys() != values["class_names"].keys():
            raise UserError(
                f"heads are for {', '.join(values['heads'])}, but class_names for {', '.join(values['class_names'])}."
            )
        return cls(
            backbone=values["backbone"],
            heads=values["heads"],
            class_names={task: tuple(names) for task, names in values["class_names"].items()},
            input=Preprocess(**values["input"]),
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            plugins=tuple(values["plugins"]),
            origin=values["origin"],
            tasks=values["tasks"],
        )
