"""A multi-task vision toolkit around the MobileNetV2 paper: classify, detect and segment on one small backbone.

Example:
    >>> import mbv2kit
    >>> predictor = mbv2kit.load("outputs/first")
    >>> result = predictor("photos/cat.jpg")
    >>> result.boxes.shape == (len(result.labels), 4)
    True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbv2kit.api import (
        Evaluation,
        Export,
        Training,
        create_model,
        evaluate,
        export,
        list_backbones,
        list_datasets,
        list_heads,
        load,
        train,
    )
    from mbv2kit.errors import UserError
    from mbv2kit.inference.predictor import Predictor
    from mbv2kit.inference.result_list import Results
    from mbv2kit.inference.results import Result

__version__ = "0.1.0"

__all__ = [
    "Evaluation",
    "Export",
    "Predictor",
    "Result",
    "Results",
    "Training",
    "UserError",
    "create_model",
    "evaluate",
    "export",
    "list_backbones",
    "list_datasets",
    "list_heads",
    "load",
    "train",
]

_HOMES = {
    "Predictor": "mbv2kit.inference.predictor",
    "Result": "mbv2kit.inference.results",
    "Results": "mbv2kit.inference.result_list",
    "UserError": "mbv2kit.errors",
}


# With a __getattr__ a type checker would take any name for granted.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Imports what is asked for, so that ``import mbv2kit`` takes no time and needs no torch."""
        if name not in __all__:
            raise AttributeError(f"module 'mbv2kit' has no attribute '{name}'")
        value = getattr(import_module(_HOMES.get(name, "mbv2kit.api")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
