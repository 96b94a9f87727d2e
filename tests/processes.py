"""Python in processes of its own: fresh ones, and ones that are forked from one that has imported everything."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess, run

_PRELOADED = ("mbv2kit.training.run", "mbv2kit.evaluation.run", "mbv2kit.exporting.onnx", "mbv2kit.api", "timm")


def run_python(code: str) -> str:
    """Runs code in a fresh process, and returns what it prints."""
    return run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def run_forked(
    script: Path, *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None, paths: Sequence[Path] = ()
) -> "CompletedProcess[str]":
    """Runs a Python file as ``python FILE ARGUMENTS...`` does, and returns what it leaves.

    Importing torch and Lightning takes seconds, which a test of a command's answers need not spend. What is imported
    when, and settings that libraries read at import, need a fresh process.

    Args:
        script: The file.
        *arguments: What follows it on the command line.
        cwd: The current folder.
        environment: Variables to set.
        paths: Folders that Python looks for packages in first.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = context.Process(
            target=_run,
            args=(str(script), arguments, str(cwd), dict(environment or {}), [*map(str, paths)], [*map(str, files)]),
        )
        process.start()
        process.join()
        assert process.exitcode is not None
        return CompletedProcess([str(script), *arguments], process.exitcode, *(file.read_text() for file in files))


def _run(
    script: str,
    arguments: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    paths: Sequence[str],
    files: Sequence[str],
) -> None:
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = paths
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
