"""The models of mbv2kit that a run measures, and a competitor for each exported file and runtime."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.imaging.postprocess import DETECTIONS
from mbv2kit.inference.runtimes import RUNTIMES
from mbv2kit.lab.benchmark.competitor import FunctionCompetitor
from mbv2kit.models.exports import Export
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import find_model
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Task

MODELS = "mbv2kit.lab.benchmark.competitors.mbv2kit_models"


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder.

    Attributes:
        folder: Absolute path.
        label: Prefix of the names of its competitors if a job has several models, otherwise empty.
        note: Which network it is, and its input, in a sentence for below a table.
        exports: Exported files to measure.
        madds: Multiply-adds for one image; None if they could not be counted.
        source: Name of the published file that the model was converted from; None if there is none.
    """

    folder: Path
    label: str
    note: str
    exports: tuple[Export, ...]
    madds: int | None
    source: str | None


def open_models(task: Task, names: Sequence[str], count: Callable[[Path], int | None]) -> list[Model]:
    """Reads the models of a task.

    Args:
        task: Task that all models must have.
        names: Run folders, model folders or files in model folders; of an exported file, only that file is measured.
        count: Counts the multiply-adds of the model in a folder.

    Raises:
        UserError: A name is no model or given twice, or the model has another task or no exported file.
    """
    models = []
    seen: set[tuple[Path, tuple[Export, ...]]] = set()
    short_names = [Path(name).name for name in names]
    for name, short_name in zip(names, short_names, strict=True):
        folder = find_model(name) or ModelFolder(Path(name))
        spec, exports = folder.read_spec(), folder.read_exports()
        if task not in spec.heads:
            raise UserError(f"models.{task}: {name} does {' and '.join(spec.heads)}, not {task}; name another model.")
        if not exports:
            raise UserError(
                f"models.{task}: {name} has no exported file; make some with mbv2kit export checkpoint={name}."
            )
        named = tuple(export for export in exports if export.file == short_name)
        label = f"{short_name if short_names.count(short_name) == 1 else name} " if len(names) > 1 else ""
        path, measured = folder.path.resolve(), named or exports
        if (path, measured) in seen:
            raise UserError(f"models.{task}: {name} is a model that is named before; name each once.")
        seen.add((path, measured))
        source = spec.origin.get("source")
        models.append(
            Model(path, label, _note(spec, name), measured, count(path), None if source is None else Path(source).name)
        )
    return models


def _note(spec: ModelSpec, name: str) -> str:
    height, width = spec.input.size
    options = ", ".join(f"{key}={value}" for key, value in spec.backbone.items() if key != "name")
    return f"{name}: {spec.backbone['name']}{f' with {options}' if options else ''} at {height} x {width}."


def nms_outside(models: Sequence[Model]) -> list[Model]:
    """Returns detectors without those of their exported files that contain NMS, whose scores cannot be set."""
    return [
        replace(model, exports=tuple(export for export in model.exports if DETECTIONS not in export.outputs))
        for model in models
    ]


def in_every_runtime(
    models: Sequence[Model], function: str, options: Mapping[str, Any], batch: int = 1
) -> Iterator[FunctionCompetitor]:
    """Yields a competitor for each exported file in each runtime that reads it, installed or not.

    Args:
        models: Models of a job.
        function: Name of a function in :mod:`mbv2kit.lab.benchmark.competitors.mbv2kit_models`.
        options: Arguments of the function, other than the file and the runtime.
        batch: Images per call.
    """
    for model in models:
        for export in model.exports:
            for runtime, library in RUNTIMES.items():
                if export.format in library.reads:
                    yield FunctionCompetitor(
                        name=f"{model.label}{export.file} in {runtime}",
                        group="mbv2kit",
                        precision=export.precision,
                        library=runtime,
                        needs=(library.package,),
                        madds=None if model.madds is None else model.madds * batch,
                        setup=f"{MODELS}:{function}",
                        options={
                            **options,
                            "folder": str(model.folder),
                            "file": export.file,
                            "runtime": runtime,
                        },
                    )
