"""The models of ours that a run was given, and the competitors that their exported files make."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.inference.runtimes import RUNTIMES
from mbv2kit.lab.benchmark.competitor import Calls
from mbv2kit.models.exports import Export, read_exports
from mbv2kit.models.spec import read_spec
from mbv2kit.structures import Task

OURS = "mbv2kit.lab.benchmark.competitors.ours"


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder.

    Attributes:
        folder: Absolute.
        label: Stands before the names of its competitors where a job has several models, else empty.
        exports: Its exported files.
        madds: Its multiply-adds for one image; None where they could not be counted.
    """

    folder: Path
    label: str
    exports: tuple[Export, ...]
    madds: int | None


def open_models(task: Task, folders: Sequence[str], count: Callable[[Path], int | None]) -> list[Model]:
    """Looks at the model folders of a task.

    Args:
        task: That all of them must do.
        folders: As given.
        count: Counts the multiply-adds of a model.

    Raises:
        UserError: A folder is no model folder, does another task, or has no exported file.
    """
    models = []
    for name in folders:
        folder = Path(name).resolve()
        spec, exports = read_spec(folder), read_exports(folder)
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
) -> Iterator[Calls]:
    """Yields a competitor for each exported file in each runtime that reads it, installed or not.

    Args:
        models: Of a job.
        function: Of :mod:`mbv2kit.lab.benchmark.competitors.ours`.
        options: For the function, beside the file and the runtime.
        batch: Images in a call.
    """
    for model in models:
        for export in model.exports:
            for runtime, library in RUNTIMES.items():
                if export.format in library.reads:
                    yield Calls(
                        name=f"{model.label}{export.file} in {runtime}",
                        group="ours",
                        precision=export.precision,
                        library=runtime,
                        needs=(library.package,),
                        madds=None if model.madds is None else model.madds * batch,
                        setup=f"{OURS}:{function}",
                        options={
                            **options,
                            "folder": str(model.folder),
                            "file": export.file,
                            "runtime": runtime,
                        },
                    )
