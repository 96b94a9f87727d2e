"""Folders of JPEG files to see."""

from itertools import cycle, islice
from pathlib import Path

from mbv2kit.lab.benchmark.setup import Ready

# Of the folder of large images.
_COUNT = 200
_WIDTH, _HEIGHT, _QUALITY = 1920, 1080, 90


def enlarge(path: str, files: dict[str, str], source: str) -> Ready:
    """Writes images as JPEG files of 1920 x 1080: scaled to cover that, and cut."""
    import cv2

    folder = Path(path)
    folder.mkdir()
    for number, file in enumerate(islice(cycle(_jpegs(source)), _COUNT)):
        image = cv2.imread(str(file))
        assert image is not None, f"{file} is no image"
        height, width = image.shape[:2]
        scale = max(_WIDTH / width, _HEIGHT / height)
        size = (max(_WIDTH, round(width * scale)), max(_HEIGHT, round(height * scale)))
        large = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        top, left = (size[1] - _HEIGHT) // 2, (size[0] - _WIDTH) // 2
        cut = large[top : top + _HEIGHT, left : left + _WIDTH]
        cv2.imwrite(str(folder / f"{number:05}.jpg"), cut, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return Ready({})


def link(path: str, files: dict[str, str], count: int, source: str | None = None) -> Ready:
    """Fills a folder with links to the images of another, as often as it takes."""
    folder = Path(path)
    folder.mkdir()
    for number, file in enumerate(islice(cycle(_jpegs(source or files["hd"])), count)):
        (folder / f"{number:05}.jpg").symlink_to(file.resolve())
    return Ready({})


def _jpegs(folder: str) -> list[Path]:
    found = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise FileNotFoundError(f"there is no JPEG file below {folder}")
    return found
