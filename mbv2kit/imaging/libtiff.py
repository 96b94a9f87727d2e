"""Hears what libtiff says as Pillow reads a TIFF: some pixels are lost with no more than a message on stderr."""

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import _imaging

_heard = threading.local()


def _note(module: bytes | None, text: bytes | None, _values: int | None) -> None:
    # The values that belong to the text, such as the number of a line, cannot be read here.
    words = re.split(rb" at |%", text or b"")[0].strip(b" :")
    _heard.message = b": ".join(filter(None, (module, words))).decode(errors="replace")


def _listen(handler: Any) -> None:
    # Pillow's wheels bring their own libtiff; a build without one has nothing to say.
    library = ctypes.CDLL(_imaging.__file__)
    if hasattr(library, "TIFFSetErrorHandler"):
        library.TIFFSetErrorHandler(handler)
        library.TIFFSetWarningHandler(None)


# The library calls it for as long as the process runs.
_handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(_note)
_listen(_handler)


@contextmanager
def losses_told() -> Iterator[None]:
    """Turns an error that libtiff only prints, in this thread, into an exception.

    Raises:
        ValueError: Pixels of the image that was read are lost.
    """
    _heard.message = ""
    yield
    if _heard.message:
        raise ValueError(f"its pixels are damaged ({_heard.message})")
