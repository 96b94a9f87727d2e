"""Reads data sets in COCO's ``instances`` format: boxes for detection, masks drawn from outlines for segmentation."""

from mbv2kit.data.sources.coco.source import Coco

__all__ = ["Coco"]
