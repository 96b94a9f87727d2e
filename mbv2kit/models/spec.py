"""The description of a model without its weights: the content of ``model.json``, which is read without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.structures import Task

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything about a model but its weights; the content of ``model.json``.

    Attributes:
        backbone: ``name`` and the arguments of its constructor.
        heads: For each task ``name`` and the arguments of the head's constructor.
        class_names: For each task the names of its classes, by class id.
        input: How an image becomes the network's input.
        mean: Value that is subtracted from each of the three channels, in 0..255.
        std: Value by which each channel is divided, in 0..255.
        plugins: Packages outside mbv2kit that register its backbone and heads.
        origin: Origin of the model (the run, its metrics, a license), for people.
    """

    backbone: Mapping[str, Any]
    heads: Mapping[Task, Mapping[str, Any]]
    class_names: Mapping[Task, Sequence[str]]
    input: Preprocess
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    plugins: Sequence[str] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain containers, ready for JSON."""
        values = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return values if self.plugins else {key: value for key, value in values.items() if key != "plugins"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """Reads what :meth:`to_dict` wrote; raises KeyError or TypeError for anything else."""
        return cls(
            backbone=values["backbone"],
            heads=values["heads"],
            class_names={task: tuple(names) for task, names in values["class_names"].items()},
            input=Preprocess(**values["input"]),
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            plugins=tuple(map(str, values.get("plugins", ()))),
            origin=values["origin"],
        )
