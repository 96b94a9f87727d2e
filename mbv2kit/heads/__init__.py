"""Heads: one module per paper, which registers its heads by name. A head reads feature maps of any backbone."""

from mbv2kit.heads.registry import HEADS, Head, HeadDict, create_head, list_heads

__all__ = ["HEADS", "Head", "HeadDict", "create_head", "list_heads"]
