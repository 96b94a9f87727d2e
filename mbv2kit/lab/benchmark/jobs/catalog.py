"""From the names of jobs to their cases."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mbv2kit.lab.benchmark.competitor import Case
from mbv2kit.lab.benchmark.jobs import classification, detection, segmentation, whole_programs
from mbv2kit.lab.benchmark.jobs.models import Model
from mbv2kit.structures import Task

# Each with the task whose models it measures.
JOBS: Mapping[str, Task] = {
    "classification": "classification",
    "detection": "detection",
    "segmentation": "segmentation",
    "files": "classification",
    "cold_start": "classification",
    "memory": "classification",
}


def list_cases(
    jobs: Sequence[str], models: Mapping[Task, Sequence[Model]], ways: Sequence[Sequence[str]], published: Path | None
) -> list[Case]:
    """Lists the cases of some jobs.

    Args:
        jobs: Keys of :data:`JOBS`.
        models: Ours, for each task that the jobs are about.
        ways: Keys of ``tools/infer.py`` with which our classifiers are run on files.
        published: Folder of Google's .tflite files, or None; a case notes the file that it does without.
    """
    classifiers = models.get("classification", ())
    cases = {
        "classification": lambda: classification.cases(classifiers, _file(published, classification.PUBLISHED)),
        "detection": lambda: detection.cases(models.get("detection", ())),
        "segmentation": lambda: segmentation.cases(
            models.get("segmentation", ()), _file(published, segmentation.PUBLISHED)
        ),
        "files": lambda: whole_programs.file_cases(classifiers, ways),
        "cold_start": lambda: whole_programs.cold_start_cases(classifiers, ways),
        "memory": lambda: whole_programs.memory_cases(classifiers, ways),
    }
    return [case for job in jobs for case in cases[job]()]


def _file(folder: Path | None, name: str) -> Path | None:
    return (folder / name).resolve() if folder is not None and (folder / name).is_file() else None
