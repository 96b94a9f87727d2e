"""Heads: one file per paper; each registers its heads by name. A head knows feature maps, never a backbone."""

from mbv2kit.heads.registry import HEADS, Head, HeadDict, create_head, list_heads

__all__ = ["HEADS", "Head", "HeadDict", "create_head", "list_heads"]
