"""Compares the reader of training with pipelines of other libraries: images from JPEG files to batches, one thread.

python -m tests.data.reading_speed PHOTOS [ROUNDS]      a folder of JPEG photographs, of which those of 500 pixels serve

All of them take the same random crops of 0.25 to 1 of the area, resized to 224 pixels, flips and colors, and stack
batches of 32 uint8 images. They take turns, batch by batch, and what counts is the time of the processor. Photographs
of 1920 x 1080 pixels are the others enlarged, with the noise of a camera.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from time import process_time

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2
import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from mbv2kit.data.augment import create_augment
from mbv2kit.data.datamodule import collate_training
from mbv2kit.data.image_cache import ImageCache
from mbv2kit.data.joined import Joined
from mbv2kit.data.sources import create_source
from mbv2kit.data.training_set import TrainingSet
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.process import keep_freed_memory

Batch = Callable[[Sequence[int], int], Tensor]

SIDE = 224
SCALE, RATIO = (0.25, 1.0), (0.75, 1.333)
COLORS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
_LONG_SIDE = 500
_BATCH = 32
_PHOTOS = 96
_NOISE = 3.0


def copy_photos(photos: Path, folder: Path) -> None:
    """Copies photographs whose longer side is 500 pixels into class folders."""
    fitting = (path for path in sorted(photos.rglob("*.[jJ][pP]*[gG]")) if _size(path) == _LONG_SIDE)
    for index, path in enumerate(islice(fitting, _PHOTOS)):
        place = folder / "train" / f"{index % 2}" / f"{index:03}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())


def _size(path: Path) -> int:
    with PillowImage.open(path) as image:
        return max(image.size)


def enlarge_photos(small: Path, folder: Path) -> None:
    """Makes photographs of 1920 x 1080 pixels of smaller ones."""
    rng = np.random.default_rng(0)
    for path in sorted(small.rglob("*.jpg")):
        place = folder / path.relative_to(small)
        place.parent.mkdir(parents=True, exist_ok=True)
        with PillowImage.open(path) as image:
            large = np.asarray(image.convert("RGB").resize((1920, 1080), PillowImage.Resampling.BICUBIC))
        noisy = np.clip(large + rng.normal(0, _NOISE, large.shape), 0, 255).astype(np.uint8)
        PillowImage.fromarray(noisy).save(place, quality=90)


def ours(root: Path, hue: float, *, cached: bool = False) -> Batch:
    """The reader of mbv2kit."""
    source = Joined({"classification": create_source("folder", task="classification", split="train", root=root)})
    preset = {"preset": "classification", "scale": SCALE, "ratio": RATIO, "hue": hue, **COLORS}
    augment = create_augment(preset, Preprocess((SIDE, SIDE), "crop"))
    caches = None
    if cached:
        files = [source.image_file(index) for index in range(len(source))]
        caches = [ImageCache([file for file in files if file is not None], augment.most_reduced, "ram")]
    images = TrainingSet(source, augment, 0, caches)
    return lambda indices, epoch: collate_training([images[epoch, index] for index in indices]).images


def of_pillow(root: Path, hue: float) -> Batch:
    """Pillow and the first transforms of torchvision."""
    crop = v1.RandomResizedCrop(SIDE, SCALE, RATIO)
    changes = [crop, v1.RandomHorizontalFlip(), v1.ColorJitter(**COLORS, hue=hue), v1.PILToTensor()]
    transform = v1.Compose(changes)
    paths = _paths(root)

    def read(index: int) -> Tensor:
        with PillowImage.open(paths[index]) as image:
            return transform(image.convert("RGB"))  # type: ignore[no-any-return]

    return lambda indices, _: torch.stack([read(index) for index in indices])


def of_tensors(root: Path, hue: float) -> Batch:
    """torchvision's decoder and its second transforms, on tensors."""
    crop = v2.RandomResizedCrop(SIDE, SCALE, RATIO, antialias=True)
    transform = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.ColorJitter(**COLORS, hue=hue)])
    paths = [str(path) for path in _paths(root)]
    return lambda indices, _: torch.stack(
        [transform(decode_image(paths[index], ImageReadMode.RGB)) for index in indices]
    )


def of_opencv(root: Path, hue: float) -> Batch:
    """OpenCV and albumentations."""
    transform = albumentations.Compose(
        [
            albumentations.RandomResizedCrop((SIDE, SIDE), scale=SCALE, ratio=RATIO),
            albumentations.HorizontalFlip(),
            albumentations.ColorJitter(**COLORS, hue=hue, p=1.0),
        ]
    )
    paths = [str(path) for path in _paths(root)]

    def read(index: int) -> np.ndarray:
        image: np.ndarray = transform(image=cv2.imread(paths[index], cv2.IMREAD_COLOR_RGB))["image"]
        return image

    return lambda indices, _: torch.from_numpy(np.stack([read(index) for index in indices])).permute(0, 3, 1, 2)


def _paths(root: Path) -> list[Path]:
    return sorted((root / "train").rglob("*.jpg"))


READERS: dict[str, Callable[[Path, float], Batch]] = {
    "mbv2kit": ours,
    "Pillow + torchvision v1": of_pillow,
    "torchvision v2 on tensors": of_tensors,
    "OpenCV + albumentations": of_opencv,
}


def compare(root: Path, hue: float, rounds: int) -> dict[str, tuple[float, float]]:
    """Returns the images per second of each reader, and how many times as fast mbv2kit is: medians of the rounds."""
    readers = {name: make(root, hue) for name, make in READERS.items()}
    readers["mbv2kit, dataset.cache=ram"] = ours(root, hue, cached=True)
    count = len(_paths(root))
    times: dict[str, list[float]] = {name: [] for name in readers}
    for epoch in range(rounds + 1):
        for start in range(0, count, _BATCH):
            indices = range(start, min(start + _BATCH, count))
            for name, read in readers.items():
                begin = process_time()
                images = read(indices, epoch)
                taken = process_time() - begin
                assert images.shape == (len(indices), 3, SIDE, SIDE)
                assert images.dtype == torch.uint8
                # The first round warms up, and fills the cache.
                if epoch:
                    times[name].append(taken / len(indices))
    return {
        name: (1 / median(taken), median(other / own for own, other in zip(times["mbv2kit"], taken, strict=True)))
        for name, taken in times.items()
    }


def main(photos: str, rounds: str = "8") -> None:
    """Prints the images per second of every reader for small and large photographs, without and with hue."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="reading_") as folder:
        small, large = Path(folder, "small"), Path(folder, "large")
        copy_photos(Path(photos), small)
        enlarge_photos(small, large)
        for root in (small, large):
            sizes = [path.stat().st_size for path in _paths(root)]
            print(f"{root.name}: {len(sizes)} photographs of {sum(sizes) / len(sizes) / 1000:.0f} kB")
            for hue in (0.0, 0.1):
                for name, (speed, ratio) in compare(root, hue, int(rounds)).items():
                    print(f"  hue {hue}  {name:30} {speed:7.0f} images/s {ratio:6.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
