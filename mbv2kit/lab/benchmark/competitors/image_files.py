"""Makes folders of JPEG files."""

from itertools import cycle, islice
from pathlib import Path

from mbv2kit.lab.benchmark.workload import Workload

# Number of large images.
_COUNT = 200
_WIDTH, _HEIGHT, _QUALITY = 1920, 1080, 90


def enlarge(path: str, files: dict[str, str], source: str) -> Workload:
    """Writes images as JPEG files of 1920 x 1080 pixels, scaled to cover that size and cropped."""
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
    return Workload({})


def link(path: str, files: dict[str, str], count: int, source: str | None = None) -> Workload:
    """Fills a folder with ``count`` links to the images of another, repeating them as needed."""
    folder = Path(path)
    folder.mkdir()
    for number, file in enumerate(islice(cycle(_jpegs(source or files["hd"])), count)):
        (folder / f"{number:05}.jpg").symlink_to(file.resolve())
    return Workload({})


def _jpegs(folder: str) -> list[Path]:
    found = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise FileNotFoundError(f"{folder} contains no JPEG file")
    return found
