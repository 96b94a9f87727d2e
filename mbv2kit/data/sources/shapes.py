"""A data set without files: scenes of textured shapes, drawn from a seed, with ground truth for every task."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.sources.base import SOURCES, Source
from mbv2kit.errors import UserError
from mbv2kit.schema.rules import LONGEST_SIDE, Count, Seed, between
from mbv2kit.structures import Boxes, Image, Sample, Task

CLASSES = ("circle", "triangle", "square", "cross", "ring")

# Side of the square of the same area, as a fraction of the scene's side.
_MAIN_SIDE = (0.4, 0.55)
_OTHER_SIDE = (0.22, 0.36)
_MAX_OTHERS = 2
_ATTEMPTS = 6
# At least this fraction of every shape is visible, and the main one has this many times the pixels of the next.
_VISIBLE = 0.6
_LARGEST_BY = 1.5
_TEXTURES = ("plain", "gradient", "stripes", "checks", "blotches")
_SUBPIXEL_BITS = 4

# Shapes are lighter than any ground and have a dark rim at borders, so that a small network learns within minutes; the
# colors themselves are random.
_GROUND_COLORS = (25, 85)
_SHAPE_COLORS = (125, 230)
_RIM_LIGHT = 0.25

# Every epoch has the same scenes; as many as fit into this are kept after they are drawn.
_KEPT_BYTES = 2**28

Outline = tuple[NDArray[np.float64], ...]


def _outlines() -> tuple[Outline, ...]:
    """Returns the polygons of each class around the origin, with area 1, so that size does not reveal the class."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    disc = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    arms = [(1, 3), (1, 1), (3, 1), (3, -1), (1, -1), (1, -3), (-1, -3), (-1, -1), (-3, -1), (-3, 1), (-1, 1), (-1, 3)]
    outlines = ((disc,), (disc[::16],), (disc[::12],), (np.array(arms, dtype=np.float64),), (disc, 0.55 * disc))
    return tuple(tuple(polygon / np.sqrt(_area(outline)) for polygon in outline) for outline in outlines)


def _area(outline: Outline) -> float:
    """Returns the area inside the first polygon and outside the second, if there is one."""
    border, *holes = [abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in (polygon.T for polygon in outline)]
    return float(border - sum(holes))


_OUTLINES = _outlines()


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn scene; its first shape is the main one.

    Attributes:
        image: ``(S, S, 3)`` uint8.
        owner: ``(S, S)`` uint8, 0 for the background and k + 1 for pixels of shape k.
        classes: ``(N,)`` int64, the class of each shape.
    """

    image: Image
    owner: NDArray[np.uint8]
    classes: NDArray[np.int64]

    def boxes(self) -> Boxes:
        """Returns the ``(N, 4)`` boxes around the visible part of each shape."""
        boxes = []
        for shape in range(1, len(self.classes) + 1):
            x, y, width, height = cv2.boundingRect(np.asarray(self.owner == shape, dtype=np.uint8))
            boxes.append((x, y, x + width, y + height))
        return np.array(boxes, dtype=np.float32)

    def mask(self) -> NDArray[np.uint8]:
        """Returns the ``(S, S)`` class of each pixel, 0 for the background and class + 1 for a shape."""
        lookup = np.concatenate([[0], self.classes + 1]).astype(np.uint8)
        return np.asarray(lookup[self.owner], dtype=np.uint8)


@SOURCES.register("shapes")
class Shapes(Source):
    """Textured shapes that overlap on a textured ground, for all three tasks.

    Every scene has one main shape, whose class is the label of the image, and up to two smaller ones. Boxes and masks
    cover the visible parts; a shape of which too little would be visible is not drawn. Color and size say nothing about
    the class. Scene i is a function of only seed, split and i. Scenes are kept after they are drawn, up to 256 MB in
    each process, so the image of a sample must not be changed.

    Args:
        task: Any task.
        split: ``train`` or ``val``.
        size: Height and width of a scene in pixels, at least 64.
        train_count: Number of scenes in ``train``.
        val_count: Number of scenes in ``val``.
        seed: Another seed gives other scenes.

    Raises:
        UserError: The split is unknown, or size or count is too small.
    """

    provides: ClassVar[frozenset[Task]] = frozenset({"classification", "detection", "segmentation"})
    layout: ClassVar[str] = ""

    def __init__(
        self,
        *,
        task: Task,
        split: str,
        size: Annotated[int, between(64, LONGEST_SIDE)] = 160,
        train_count: Count = 2000,
        val_count: Count = 300,
        seed: Seed = 0,
    ) -> None:
        counts = {"train": train_count, "val": val_count}
        if split not in counts:
            raise UserError(f"dataset 'shapes' has no split '{split}'; splits found: {', '.join(counts)}.")
        self.class_names = ("background", *CLASSES) if task == "segmentation" else CLASSES
        self._task = task
        self._split = split
        self._size = size
        self._count = counts[split]
        self._entropy = (seed, list(counts).index(split))
        self._kept: dict[int, Scene] = {}
        # A scene takes four bytes per pixel: three colors and an owner.
        self._capacity = _KEPT_BYTES // (4 * size**2)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(f"index {index} is outside {self._count} scenes")
        scene = self._scene(index)
        sample = Sample(image=scene.image, image_id=self._name(index))
        if self._task == "classification":
            sample.label = int(scene.classes[0])
        elif self._task == "segmentation":
            sample.mask = scene.mask()
        else:
            sample.boxes, sample.labels = scene.boxes(), scene.classes
            sample.crowd = np.zeros(len(scene.classes), dtype=np.bool_)
        return sample

    def image_names(self) -> Iterable[str]:
        """Returns the names of the scenes; none is drawn."""
        return map(self._name, range(self._count))

    def _name(self, index: int) -> str:
        return f"{self._split}_{index:05d}"

    def _scene(self, index: int) -> Scene:
        scene = self._kept.get(index)
        if scene is None:
            scene = draw_scene(np.random.default_rng((*self._entropy, index)), self._size)
            if len(self._kept) < self._capacity:
                self._kept[index] = scene
        return scene


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draws a scene of ``size`` x ``size`` pixels; ``rng`` makes all random choices."""
    owner, classes = _arrange(rng, size)
    used = [rng.uniform(*_GROUND_COLORS, 3)]
    image = _texture(rng, size, size, used[0])
    for shape in range(1, len(classes) + 1):
        visible = np.asarray(owner == shape, dtype=np.uint8)
        x, y, width, height = cv2.boundingRect(visible)
        used.append(_unlike(rng, used))
        part = np.s_[y : y + height, x : x + width]
        cv2.copyTo(_texture(rng, height, width, used[-1]), visible[part], image[part])
    rim = (cv2.morphologyEx(owner, cv2.MORPH_GRADIENT, np.ones((3, 3), dtype=np.uint8)) > 0) & (owner > 0)
    image[rim] = (image[rim] * _RIM_LIGHT).astype(np.uint8)
    grain = rng.integers(0, 17, image.shape, dtype=np.uint8)
    noisy = cv2.subtract(cv2.add(image, grain), np.full_like(image, 8))
    return Scene(np.asarray(noisy, dtype=np.uint8), owner, classes)


def _arrange(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Places shapes one by one, above or below those already there, if enough of each stays visible."""
    main_side = rng.uniform(*_MAIN_SIDE) * size
    classes = [int(rng.integers(len(CLASSES)))]
    owner = _fill(rng, classes[0], main_side, rng.uniform(0.38, 0.62, 2) * size, size)
    areas = [main_side**2]
    for _ in range(int(rng.integers(_MAX_OTHERS + 1))):
        kind = int(rng.integers(len(CLASSES)))
        side = min(rng.uniform(*_OTHER_SIDE) * size, 0.7 * main_side)
        for _ in range(_ATTEMPTS):
            added = _fill(rng, kind, side, rng.uniform(0.05, 0.95, 2) * size, size)
            above = rng.random() < 0.5
            tried = owner.copy()
            tried[(added > 0) & (above | (owner == 0))] = len(areas) + 1
            if _all_visible(tried, [*areas, side**2]):
                owner = tried
                areas.append(side**2)
                classes.append(kind)
                break
    return owner, np.array(classes, dtype=np.int64)


def _all_visible(owner: NDArray[np.uint8], areas: list[float]) -> bool:
    pixels = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:]
    return bool((pixels >= _VISIBLE * np.array(areas)).all() and pixels[0] >= _LARGEST_BY * pixels[1:].max(initial=0))


def _fill(
    rng: np.random.Generator, kind: int, side: float, center: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """Draws a shape of area ``side ** 2``, turned and stretched at random, as ones on zeros."""
    stretch = np.sqrt(rng.uniform(0.8, 1.25))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    polygons = [polygon * (side * stretch, side / stretch) @ turn + center for polygon in _OUTLINES[kind]]
    canvas = np.zeros((size, size), dtype=np.uint8)
    # Two polygons that overlap make a hole.
    cv2.fillPoly(
        canvas, [np.rint(polygon * 2**_SUBPIXEL_BITS).astype(np.int32) for polygon in polygons], 1, shift=_SUBPIXEL_BITS
    )
    return canvas


def _unlike(rng: np.random.Generator, used: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Draws a few mean colors and returns the one that is farthest from those in use."""
    colors = rng.uniform(*_SHAPE_COLORS, (8, 3))
    distances = np.linalg.norm(colors[:, None] - np.array(used)[None], axis=2).min(axis=1)
    return np.asarray(colors[np.argmax(distances)])


def _texture(rng: np.random.Generator, height: int, width: int, color: NDArray[np.float64]) -> Image:
    """Paints one of the textures so that it varies around ``color``."""
    wave = _wave(rng, _TEXTURES[rng.integers(len(_TEXTURES))], height, width)
    swing = rng.uniform(-25, 25, 3)
    palette = np.clip(color + np.linspace(-1, 1, 256)[:, None] * swing, 0, 255).astype(np.uint8)
    return np.take(palette, (wave * 127.5 + 127.5).astype(np.uint8), axis=0)


def _wave(rng: np.random.Generator, texture: str, height: int, width: int) -> NDArray[np.float32]:
    """Returns the texture as ``(height, width)`` values in -1..1."""
    period, angle = rng.uniform(5, 18), rng.uniform(0, 2 * np.pi)
    if texture == "plain":
        return np.zeros((height, width), dtype=np.float32)
    if texture == "blotches":
        cells = (max(2, int(3 * height / period)), max(2, int(3 * width / period)))
        blotches = rng.uniform(-1, 1, cells).astype(np.float32)
        return np.asarray(cv2.resize(blotches, (width, height)), dtype=np.float32)
    y, x = np.ogrid[:height, :width]
    along = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
    if texture == "gradient":
        return np.asarray(along / np.float32(np.hypot(height, width)))
    turns = np.float32(2 * np.pi / period)
    stripes = np.sign(np.sin(along * turns))
    if texture == "stripes":
        return np.asarray(stripes)
    across = (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32)
    return np.asarray(stripes * np.sign(np.sin(across * turns)))
