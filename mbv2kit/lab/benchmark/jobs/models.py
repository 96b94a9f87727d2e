"""The models of mbv2kit that a run measures, and a competitor for each exported file and runtime."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.inference.runtimes import RUNTIMES
from mbv2kit.lab.benchmark.competitor import FunctionCompetitor
from mbv2kit.models.exports import Export
from mbv2kit.models.folder import ModelFolder
from mbv2kit.structures import Task

MODELS = "mbv2kit.lab.benchmark.competitors.mbv2kit_models"


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder.

    Attributes:
        folder: Absolute path.
        label: Prefix of the names of its competitors if a job has several models, otherwise empty.
        exports: Exported files.
        madds: Multiply-adds for one image; None if they could not be counted.
    """

    folder: Path
    label: str
    exports: tuple[Export, ...]
    madds: int | None


def open_models(task: Task, folders: Sequence[str], count: Callable[[Path], int | None]) -> list[Model]:
    """Reads the model folders of a task.

    Args:
        task: Task that all models must have.
        folders: Paths of the folders.
        count: Counts the multiply-adds of the model in a folder.

    Raises:
        UserError: A folder is no model folder, has another task, or has no exported file.
    """
    models = []
    for name in folders:
        folder = Path(name).resolve()
        spec, exports = ModelFolder(folder).read_spec(), ModelFolder(folder).read_exports()
        if task not in spec.heads:
            raise UserError(f"models.{task}: {name} does {' and '.join(spec.heads)}, not {task}; name another folder.")
        if not exports:
            raise UserError(
                f"models.{task}: {name} has no exported file; make some with python tools/export.py checkpoint={name}."
            )
        label = f"{folder.name} " if len(folders) > 1 else ""
        models.append(Model(folder, label, exports, count(folder)))
    return models


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
