"""One process at a time owns the folder of a run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mbv2kit.errors import UserError
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.files.writing import claim_folder, remove_unfinished
from mbv2kit.models.folder_lock import held
from mbv2kit.models.run_folder import RunFolder

_DATED = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


@contextmanager
def new_run(path: Path, *, named: bool) -> Iterator[RunFolder]:
    """Makes the folder of a new run and owns it; one in which nothing was trained is removed in the end.

    Args:
        path: The folder.
        named: Whether the user chose it. A default name, the time of the start, gets a number where it is taken.

    Raises:
        UserError: The folder holds a run, a model or results, another process owns it, or it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with disk_errors_told(path):
        if named or not _DATED.fullmatch(path.name):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path = claim_folder(path)
            missing = list({path: None, **dict.fromkeys(missing)})
    run = RunFolder(path)
    before = set(path.iterdir())
    try:
        with _owned(run, f"run_dir={path}"):
            if run.config.exists():
                raise UserError(f"run_dir={path} holds a run; name another folder, or go on with resume={path}.")
            if (taken := _overwritten(run)) is not None:
                raise UserError(f"run_dir={path} holds {taken}, which training would write over; name another folder.")
            # A start that was killed may have left files before it had a configuration.
            remove_unfinished(path)
            try:
                yield run
            except BaseException:
                # The same command must work once its mistake is mended.
                if not any(run.checkpoints.glob("*.ckpt")):
                    _remove(set(path.iterdir()) - before)
                raise
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _overwritten(run: RunFolder) -> str | None:
    """Returns the first of a run's results that is there before the run; None if there is none."""
    results = (run.model, run.metrics, run.epochs, run.checkpoints, run.plots, run.predictions)
    return next((path.name for path in results if path.is_file() or (path.is_dir() and any(path.iterdir()))), None)


@contextmanager
def old_run(run: RunFolder) -> Iterator[None]:
    """Owns the folder of a run that goes on, and removes what a killed process left half written.

    Raises:
        UserError: Another process owns it.
    """
    with _owned(run, f"resume={run.path}"):
        remove_unfinished(run.path)
        yield


def tidy(run: RunFolder) -> None:
    """Removes what a process left that was killed when its run was finished; where it cannot, the run is whole too."""
    with suppress(UserError), old_run(run):
        pass


@contextmanager
def _owned(run: RunFolder, what: str) -> Iterator[None]:
    with disk_errors_told(run.path), held(run.path) as mine:
        if not mine:
            raise UserError(f"{what} is in use by another process, which trains there; wait for it or stop it.")
        yield


def _remove(paths: set[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            _remove(set(path.iterdir()))
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
