"""A multi-task vision toolkit around the MobileNetV2 paper: classify, detect and segment on one small backbone."""

__version__ = "0.1.0"
