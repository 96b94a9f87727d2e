"""Returns the cases of jobs by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Case
from mbv2kit.lab.benchmark.jobs import classification, detection, published_detectors, segmentation, whole_programs
from mbv2kit.lab.benchmark.jobs.models import Model
from mbv2kit.structures import Task

# Each job with the task of the models that it measures.
JOBS: Mapping[str, Task] = {
    "classification": "classification",
    "detection": "detection",
    "segmentation": "segmentation",
    "published_detectors": "detection",
    "files": "classification",
    "cold_start": "classification",
    "memory": "classification",
}


def list_cases(
    jobs: Sequence[str],
    models: Mapping[Task, Sequence[Model]],
    infer_options: Sequence[Sequence[str]],
    published: Path | None,
) -> list[Case]:
    """Returns the cases of some jobs.

    Args:
        jobs: Keys of :data:`JOBS`.
        models: Models of mbv2kit by task.
        infer_options: Sets of keys for ``mbv2kit infer``; each is a competitor in the jobs on files.
        published: Folder of published files, or None; a case notes the file that it runs without.
    """
    classifiers = models.get("classification", ())
    cases = {
        "classification": lambda: classification.cases(classifiers, _file(published, classification.PUBLISHED)),
        "detection": lambda: detection.cases(models.get("detection", ())),
        "segmentation": lambda: segmentation.cases(
            models.get("segmentation", ()), _file(published, segmentation.PUBLISHED)
        ),
        "published_detectors": lambda: published_detectors.cases(
            models.get("detection", ()), None if published is None else published.resolve()
        ),
        "files": lambda: whole_programs.file_cases(classifiers, infer_options),
        "cold_start": lambda: whole_programs.cold_start_cases(classifiers, infer_options),
        "memory": lambda: whole_programs.memory_cases(classifiers, infer_options),
    }
    return [case for job in jobs for case in cases[job]()]


def _file(folder: Path | None, name: str) -> Path | None:
    return (folder / name).resolve() if folder is not None and (folder / name).is_file() else None
