"""The colors of classes: 256 vivid colors, each the farthest in CIELAB from those before it.

They are taken from a grid of 14 levels a channel, and a test repeats the choice. Repeating it at every start would take
a tenth of a second.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BACKGROUND = "background"

# Red, green and blue of each color, in hexadecimal.
_HEX = (
    "eb3b3b27ff620062ff3bc4d8ebc400ff00c4277627eb9dc4896214d8eb9d3b629d27ffc49d4eb1b1eb00ff8914b12762"
    "ffb189c44eff899d14b1b1ff3bb12762b1890089ffff0076ff9dff9dff89ff76899d4e3b00b1ffb14e00ff4e00ebc462"
    "d8eb62ff62b100ffff00b162b100b1c489009d76b1b189ff89c46289893bc400896262c4894ed8ff76ffebeb0062d800"
    "9d4e62c4629d00eb89eb764e9debb100764ec49d62c43b4e89c427ff009d62894eb13b2700c4b1eb9d4eff9d9dffb114"
    "b19d004e8900ff0027eb004eeb3bebc42700eb4ec4149dc46289d8ffc4ff89ff62b1c400b1764e89c4ff7676ff627600"
    "b1b14eff89c476ffd8eb6227d800764ed89dd87689ebd84ed89deb8927d827d84ec462eb764e9d89ffb19d3b892789c4"
    "00891462d876ff4e768976000062d8d87662149dff3b9d62626214b1eb628989ebebd889b1279d89b176769d3b148976"
    "9dff3b76d84eff6262c4004ed87627624ec4c476d8624eeb27ebffebb13bc4763b894e89c43b894e9d3bd84e7600c4ff"
    "c49d3b00b189b1eb89b1c476eb76d814b1b176ebd8d8eb3b62d8ff00c40089d889ff9d3bd84ed8ebc4899d62d8c49dff"
    "3b76d89d27c427d8d8b162ff76b1ff8976c476d8b14e62b1b1c43b4e7627c4769d62ff899d4e14d814b189d814b162b1"
    "62b1629d76d8c40027d889c43b4ed827d889d889ff00ebd8b176142776ffb176ff0076c4b19d4eeb14004eeb3bebeb89"
    "893bb1c46262766227d88962b14e76ffc476d8d862d84e3b76b13bff8976d80014c4623bb1d8627689ffff893b76629d"
    "eb89d800c46276c48962c414769dffeb894e00d8b19d763b898914eb62ffb16200277600eb769dc4003b4e9d00c44eb1"
    "ff9d14b1b100d862b100893b897627c4d876b1d83bc4894ed800c4ebd81476ff9d764eb1c427d8eb76763bb14eeb3b9d"
    "d889279d6227ffb1ffb189d84ed8623b763bb1893b9d3b769d4e4eeb003bff0089d86200d84e8989d86200b176ff89ff"
    "ff4e27ffd8629deb4eff4e89b14ec4899d4e4eb1ebd8624ec4b13bffb14eb1d80027ffd800763bb12789ff624ed8b162"
)
# (256, 3) uint8 RGB.
COLORS = np.frombuffer(bytes.fromhex("".join(_HEX)), dtype=np.uint8).reshape(-1, 3)


def class_colors(count: int) -> NDArray[np.uint8]:
    """Returns ``(count, 3)`` RGB colors that are easy to tell apart; a class keeps its color whatever the count.

    The colors repeat after 256 classes.
    """
    return COLORS[np.arange(count) % len(COLORS)]


def palette(class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Returns ``(len(class_names), 3)`` RGB colors; a class called "background" is black."""
    colors = class_colors(len(class_names))
    colors[[name == BACKGROUND for name in class_names]] = 0
    return colors
