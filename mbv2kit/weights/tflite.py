"""Reads published networks from TFLite files, float or quantized, with the class names that are packed into them."""

from pathlib import Path
from zipfile import ZipFile, is_zipfile

from mbv2kit.errors import UserError
from mbv2kit.weights.published import Published
from mbv2kit.weights.tensorflow import publish
from mbv2kit.weights.tflite_graph import read_graph

# Names of 1001 classes have some 20 kB.
_LARGEST_LABELS = 1_000_000


def read(path: Path, source: str) -> Published:
    """Reads a TFLite file.

    Args:
        path: The file.
        source: Name of the source in ``model.json``.

    Raises:
        UserError: The file is damaged or holds an unknown network.
    """
    graph = read_graph(path)
    form = "TFLite, quantized" if graph.quantized else "TFLite, float"
    return publish(graph, path, source, format=form, labels=_packed_labels(path))


def _packed_labels(path: Path) -> list[tuple[str, ...]]:
    """Returns the lists of names in the file's metadata."""
    if not is_zipfile(path):
        return []
    found, left = [], _LARGEST_LABELS
    try:
        with ZipFile(path) as archive:
            for name in archive.namelist():
                if not name.endswith(".txt"):
                    continue
                with archive.open(name) as file:
                    # A few kilobytes may expand to gigabytes, whatever the archive says about their size.
                    text = file.read(left + 1)
                if len(text) > left:
                    raise ValueError(f"{name} has more than {left:,} bytes")
                left -= len(text)
                found.append(tuple(line.strip() for line in text.decode().splitlines()))
    # A damaged archive may make the reader raise anything: BadZipFile, zlib.error, RuntimeError, ...
    except Exception as error:
        raise UserError(f"{path}: its packed labels are damaged ({error}); fetch it again.") from None
    return found
