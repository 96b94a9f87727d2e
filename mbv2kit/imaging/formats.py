"""Which files are images that can be read here."""

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from mmap import mmap

from PIL import features

_ALWAYS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".pbm", ".pnm"),
}
_JPEG_2000 = {".jp2", ".j2k", ".jpx"}
_AVIF = {".avif"}
_HEIC = {".heic", ".heif"}
_HEIF_PLUGIN = "pillow_heif"
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

# What Pillow can read depends on how it was built, and on its plugins.
SUFFIXES = frozenset(
    _ALWAYS
    | (_JPEG_2000 if features.check_codec("jpg_2000") else set())
    | (_AVIF if find_spec("PIL._avif") else set())
    | (_HEIC if find_spec(_HEIF_PLUGIN) else set())
)


def is_heic(data: bytes | mmap) -> bool:
    """Tells whether a file holds an image of the kind that phones call HEIC."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS


@lru_cache(maxsize=1)
def register_heic() -> None:
    """Lets Pillow read HEIC if its plugin is installed, which takes a moment to import."""
    if find_spec(_HEIF_PLUGIN):
        import_module(_HEIF_PLUGIN).register_heif_opener()
