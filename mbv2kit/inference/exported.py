"""Predictors whose network is an exported file."""

from functools import partial
from pathlib import Path

from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.runtimes import RUNTIMES, RuntimeName, open_session
from mbv2kit.models.exports import Export
from mbv2kit.models.spec import ModelSpec


def open_export(spec: ModelSpec, folder: Path, export: Export, runtime: RuntimeName, threads: int) -> Predictor:
    """Opens an exported file.

    Args:
        spec: What the model is.
        folder: Folder that the file lies in.
        export: The file.
        runtime: What runs it.
        threads: Threads that work on one call.

    Raises:
        UserError: The runtime is not installed, or the file is damaged.
    """
    opened = partial(open_session, runtime, folder, export)
    parallel = RUNTIMES[runtime].parallel
    return Predictor(
        spec,
        opened if parallel else lambda _: opened(threads),
        runtime=f"{runtime} on {export.file}",
        threads=threads if parallel else 1,
        size=export.size,
        batch=export.batch,
        nms_options=export.nms_options,
    )
