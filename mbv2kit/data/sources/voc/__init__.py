"""Data sets with the layout of PASCAL VOC."""

from mbv2kit.data.sources.voc.source import VOC_CLASSES, Voc

__all__ = ["VOC_CLASSES", "Voc"]
