"""One sentence for a command whose packages are not installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from mbv2kit.errors import UserError

# What the extra [train] of pyproject.toml brings, by the names that are imported.
TRAIN = frozenset(
    {
        "albumentations",
        "defusedxml",
        "faster_coco_eval",
        "lightning",
        "matplotlib",
        "onnx",
        "onnxscript",
        "pycocotools",
        "safetensors",
        "tensorboard",
        "torch",
        "torchmetrics",
        "torchvision",
    }
)
# What further extras bring that a command cannot do without.
FURTHER = {"serve": frozenset({"aiohttp", "prometheus_client"}), "shards": frozenset({"pyarrow"})}


@contextmanager
def explain_missing(command: str, extra: str = "train") -> Iterator[None]:
    """Turns the failed import of a package of the extra [train], or of a further one, into a sentence.

    Args:
        command: The command that imports it, as in ``mbv2kit COMMAND``.
        extra: The extra that brings everything the command needs.

    Raises:
        UserError: The package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in TRAIN | FURTHER.get(extra, frozenset()):
            raise
        raise UserError(f"mbv2kit {command} needs {package} and more: pip install 'mbv2kit[{extra}]'") from None


def check_installed(package: str) -> None:
    """Raises the error of a failed import unless a package is installed, without importing it."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)
