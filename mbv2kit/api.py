"""What ``import mbv2kit`` offers: predict, build models, train, evaluate and export from Python.

Every function imports what it needs when it is called: predictions with an exported file need no torch.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mbv2kit.cli.console import no_tables
from mbv2kit.cli.extras import explain_missing
from mbv2kit.errors import UserError, nearest
from mbv2kit.inference.loading import Request
from mbv2kit.inference.loading import load as load_requested
from mbv2kit.inference.predictor import Predictor
from mbv2kit.models.device import Device
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.process import configure_threads

if TYPE_CHECKING:
    from mbv2kit.models.vision_model import VisionModel


def load(
    model: str | PathLike[str],
    *,
    class_names: str | PathLike[str] | None = None,
    runtime: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    tta: str = "none",
    tta_scales: Sequence[float] | None = None,
    tta_flip: bool = True,
    output_stride: int | None = None,
    memory_budget: str | int | None = None,
    compile: bool = False,
    device: Device = "cpu",
) -> Predictor:
    """Loads a model for predictions.

    Args:
        model: A run folder, a model folder, an exported file (.onnx, .xml, .tflite, .pte), a published file (.pth,
            .safetensors, .tflite, .pb), or a name: ``torchvision:mobilenet_v2``, ``timm:mobilenetv2_100``,
            ``hub:OWNER/NAME``. A run, its ``model/`` folder and a file in it are the same model.
        class_names: A text file with a class name per line; None for the names that come with the model.
        runtime: ``auto``, ``torch``, ``onnxruntime``, ``openvino``, ``litert`` or ``executorch``. ``auto`` is the
            fastest that is installed for the exported files of the model, and torch for a model without such files.
        precision: Precision of the exported file: ``fp32``, ``fp16`` or ``int8``; None for fp32 where there is such a
            file.
        threads: Cores to use; None for those that this process may use.
        tta: Test-time augmentation: ``none`` or ``multiscale_flip``, some 17 times the work, 7 times for a detector.
        tta_scales: Sizes of the input as factors, such as ``[0.75, 1, 1.25]``; None for those that suit the task.
        tta_flip: Whether each size is also mirrored.
        output_stride: Input pixels per step of the deepest map, 8, 16 or 32; None for that of the model.
        memory_budget: An amount of memory for activations, such as ``"1MB"``; None for no limit.
        compile: With ``runtime="torch"``, whether torch.compile generates code for this machine.
        device: What computes: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the best there is; all but the CPU run torch.

    Returns:
        A function from an image, or several, to a :class:`~mbv2kit.Result` for each.

    Raises:
        UserError: There is no such model, runtime or file, or something is damaged.

    Examples:
        >>> predictor = mbv2kit.load("outputs/first")
        >>> predictor("photos/cat.jpg").size
        (60, 80)
        >>> [result.path.name for result in predictor("photos/*.jpg")]
        ['cat.jpg', 'dog.jpg']
    """
    if not isinstance(model, str | PathLike):
        raise UserError(f"A model is named by a path or a name, got {type(model).__name__}.")
    request = Request(
        checkpoint=fspath(model),
        class_names=None if class_names is None else fspath(class_names),
        runtime=runtime,
        precision=precision,
        threads=threads,
        tta=tta,
        tta_scales=tta_scales,
        tta_flip=tta_flip,
        output_stride=output_stride,
        memory_budget=memory_budget,
        compile=compile,
        device=device,
    )
    return load_requested(request).predictor


def list_backbones() -> list[str]:
    """Returns the names of all backbones in alphabetical order."""
    from mbv2kit.backbones import BACKBONES

    return BACKBONES.names()


def list_heads() -> list[str]:
    """Returns the names of all heads in alphabetical order."""
    from mbv2kit.heads import HEADS

    return HEADS.names()


def list_datasets() -> list[str]:
    """Returns the names of all kinds of data sets in alphabetical order."""
    from mbv2kit.data.sources import SOURCES

    return SOURCES.names()


def create_model(backbone: str, head: str, classes: int | Sequence[str], **options: Any) -> "VisionModel":
    """Builds a model with fresh weights: the one that :func:`train` builds with the same keys.

    Args:
        backbone: One of :func:`list_backbones`.
        head: One of :func:`list_heads`; it decides the task.
        classes: Names of the classes, by class id, or how many there are.
        **options: Keys of the groups ``backbone``, ``head``, ``input`` and ``normalisation``. A group can be left out
            where no other group has such a key: ``width`` is ``backbone.width``. Otherwise it stands in front:
            ``input_size``, ``backbone_norm_momentum``.

    Returns:
        A ``torch.nn.Module`` from ``(B, 3, H, W)`` uint8 RGB images to the raw tensors of its head, in training mode.
        Normalization is part of it.

    Raises:
        UserError: A name, a key or a value is wrong.

    Examples:
        >>> model = mbv2kit.create_model("mobilenet_v2", "ssdlite", ["cell"], width=0.5, input_size=(320, 320))
        >>> model.preprocess.size
        (320, 320)
    """
    from omegaconf import OmegaConf

    from mbv2kit.cli.keywords import compose_in_program, to_overrides
    from mbv2kit.heads import HEADS
    from mbv2kit.models.vision_model import VisionModel
    from mbv2kit.training.model import model_spec
    from mbv2kit.training.parts import training_parts

    parts = {"task": HEADS.get_class(head).task, "backbone": backbone, "head": head}
    known = _keys_of_model(backbone, head)
    overrides = to_overrides(parts | {_find_key(name, known): value for name, value in options.items()})
    # model.json holds plain values.
    config = cast(dict[str, Any], OmegaConf.to_container(compose_in_program("train", overrides, training_parts())))
    return VisionModel(model_spec(config, {HEADS.get_class(head).task: _class_names(classes)}, {}))


def _keys_of_model(backbone: str, head: str) -> list[str]:
    from mbv2kit.backbones import BACKBONES
    from mbv2kit.heads import HEADS
    from mbv2kit.imaging.preprocess import Preprocess

    groups = {
        "backbone": BACKBONES.options(backbone),
        "head": HEADS.options(head),
        "input": [field.name for field in fields(Preprocess)],
        "normalisation": ["mean", "std"],
    }
    return [f"{group}.{key}" for group, keys in groups.items() for key in keys]


def _find_key(name: str, known: Sequence[str]) -> str:
    """Returns the key that is called so with or without its group."""
    whole = {key for key in known if name in (key, key.replace(".", "_"))}
    found = sorted(whole or {key for key in known if key.partition(".")[2] == name})
    if len(found) > 1:
        forms = " or ".join(key.replace(".", "_") for key in found)
        raise UserError(f"'{name}' is a key of several groups; write {forms}.")
    if not found:
        short = [key.partition(".")[2] for key in known]
        raise UserError(f"A model of these parts has no key '{name}'.{nearest(name, short)}")
    return found[0]


def _class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    names = [f"class {index}" for index in range(classes)] if isinstance(classes, int) else classes
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"classes must be a list of names, or how many there are, from 1 up; got {classes!r}.")
    return tuple(names)


def _null_to_nan(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


@dataclass(frozen=True)
class Training:
    """A training run, which can be passed where a path to a run is expected.

    Attributes:
        path: The run folder.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def finished(self) -> bool:
        """Whether training came to its end; an interrupted run goes on with ``train(resume=run.path)``."""
        return RunFolder(self.path).finished

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics on the validation split, such as ``top1``, ``AP50`` or ``mIoU``, in 0..1; NaN if undefined."""
        return _null_to_nan(self._content["metrics"])

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """The metrics of each class, by its name."""
        return {name: _null_to_nan(metrics) for name, metrics in self._content["per_class"].items()}

    @cached_property
    def model(self) -> Predictor:
        """The trained model, ready to predict."""
        self._check_finished()
        return load(self.path)

    @property
    def _content(self) -> dict[str, Any]:
        self._check_finished()
        content: dict[str, Any] = json.loads(RunFolder(self.path).metrics.read_text(encoding="utf-8"))
        return content

    def _check_finished(self) -> None:
        if not self.finished:
            raise UserError(f"The run in {self.path} is not finished; continue it with mbv2kit.train(resume=...).")


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        path: The folder with ``metrics.json``, plots and predictions.
        metrics: The metrics, such as ``top1``, ``AP50`` or ``mIoU``, in 0..1.
        per_class: The metrics of each class, by its name.
        model: The model that was evaluated, ready to predict.
    """

    path: Path
    metrics: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]] = field(repr=False)
    model: Predictor = field(repr=False)


@dataclass(frozen=True)
class Export:
    """An exported file, checked against the model in PyTorch; it can be passed where a path is expected.

    Attributes:
        path: The file, in its model folder.
        metrics: ``megabytes``; ``milliseconds`` for an image and ``torch_milliseconds``, those of the model; for fp16
            and int8 also the metrics of the task, such as ``top1`` and ``torch_top1``.
    """

    path: Path
    metrics: Mapping[str, float]

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def folder(self) -> Path:
        """The model folder."""
        return self.path.parent

    @cached_property
    def model(self) -> Predictor:
        """The exported model, ready to predict."""
        return load(self.path)


def train(**keys: Any) -> Training:
    """Trains a model: ``mbv2kit train`` with keyword arguments.

    Progress is reported through the logger ``mbv2kit``, and on stderr where the program shows no log of its own.

    Args:
        **keys: Keys of ``conf/train.yaml``, as on the command line. Dotted keys are given as
            ``**{"dataset.root": "cells"}``, or as nested dictionaries: ``dataset={"name": "voc", "root": "cells"}``.

    Returns:
        The run, with its metrics and its model.

    Raises:
        UserError: A key or a value is wrong, or the data cannot be used.

    Examples:
        >>> run = mbv2kit.train(task="classification", dataset="shapes", trainer={"max_epochs": 1})
        >>> sorted(run.metrics)
        ['top1', 'top5']
        >>> len(run.model("photos/cat.jpg").top(3))
        3
    """
    configure_threads()
    with explain_missing("train"), no_tables():
        from mbv2kit.cli.keywords import compose_in_program, to_overrides
        from mbv2kit.training.parts import training_parts
        from mbv2kit.training.run import train as train_config

        overrides = to_overrides(keys)
        run = train_config(compose_in_program("train", overrides, training_parts()), overrides)
    return Training(run.path.absolute())


def evaluate(**keys: Any) -> Evaluation:
    """Evaluates a model on a split of a data set: ``mbv2kit eval`` with keyword arguments.

    Args:
        **keys: Keys of ``conf/eval.yaml``; see :func:`train`.

    Returns:
        The metrics, and the folder that they are written to.

    Raises:
        UserError: A key or a value is wrong, or model and data do not fit together.

    Examples:
        >>> evaluation = mbv2kit.evaluate(checkpoint="outputs/first", loader={"workers": 0})
        >>> 0 <= evaluation.metrics["AP50"] <= 1
        True
    """
    configure_threads()
    with explain_missing("eval"), no_tables():
        from mbv2kit.cli.keywords import compose_in_program, to_overrides
        from mbv2kit.data.sources import SOURCES
        from mbv2kit.evaluation import EVALUATORS
        from mbv2kit.evaluation.run import evaluate as evaluate_config

        evaluation = evaluate_config(compose_in_program("eval", to_overrides(keys), [SOURCES, EVALUATORS]))
    scores = evaluation.scores
    return Evaluation(evaluation.folder.path.absolute(), scores.metrics, scores.per_class, evaluation.predictor)


def export(**keys: Any) -> Export:
    """Exports a model to a file that runs without torch: ``mbv2kit export`` with keyword arguments.

    Args:
        **keys: Keys of ``conf/export.yaml``; see :func:`train`.

    Returns:
        The file, with what its check measured.

    Raises:
        UserError: A key or a value is wrong, or the file is not as good as the model and was not kept.

    Examples:
        >>> exported = mbv2kit.export(checkpoint="outputs/first", format="onnx", check_pictures=4)
        >>> exported.path.name
        'model.onnx'
    """
    configure_threads()
    with explain_missing("export"), no_tables():
        from mbv2kit.cli.keywords import compose_in_program, to_overrides
        from mbv2kit.data.sources import SOURCES
        from mbv2kit.exporting.run import export as export_config

        exported = export_config(compose_in_program("export", to_overrides(keys), [SOURCES]))
    if exported.problem is not None:
        raise UserError(exported.problem)
    return Export(exported.file.absolute(), exported.metrics)
