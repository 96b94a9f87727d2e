import cv2
import numpy as np

from mbv2kit.imaging.colors import COLORS


def test_each_color_is_the_farthest_from_all_before_it() -> None:
    levels = np.linspace(0, 255, 14).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = cv2.cvtColor(cube[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    vivid = (lightness > 40) & (lightness < 92) & (chroma > 35) & (chroma < 100)
    cube, lab = cube[vivid], lab[vivid]
    # From the red that comes nearest to this one.
    chosen = [int(np.argmin(np.abs(cube.astype(int) - (230, 60, 60)).sum(axis=1)))]
    distance = np.full(len(cube), np.inf)
    while len(chosen) < 256:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    np.testing.assert_array_equal(COLORS, cube[chosen])
