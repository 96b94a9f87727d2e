"""Writes one shard: a tar in WebDataset's convention, and the rows of the index for what is in it."""

import json
import tarfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbv2kit.data.joined import Joined
from mbv2kit.data.sharding.plan import Shard
from mbv2kit.data.sources.shards.schema import SCHEMA
from mbv2kit.files.writing import open_atomically
from mbv2kit.imaging.encode import encode_png
from mbv2kit.imaging.formats import SUFFIXES
from mbv2kit.structures import Sample

# The key of the metadata of a part, whose value is JSON.
PART = b"mbv2kit.part"
# Those of images that have none, or one of no format.
_OTHER_SUFFIX = ".img"
_MASK, _CLASS, _NOTES = ".mask.png", ".cls", ".json"


def write_shard(shard: Shard, images: Joined, prefix: str, tar: Path, part: Path) -> int:
    """Writes a tar and then its part of the index, which shows that the tar is complete.

    The content depends on the arguments alone: every process writes the same bytes.

    Args:
        shard: What to write.
        images: The images of its split.
        prefix: Beginning of the keys.
        tar: The tar.
        part: The part of the index.

    Returns:
        The number of its images.

    Raises:
        UserError: An image cannot be read, or a file cannot be written.
    """
    rows: list[dict[str, Any]] = []
    with open_atomically(tar) as file:
        hashed = _Hashed(file)
        # Streaming, so that tarfile writes each byte once and in order.
        with tarfile.open(fileobj=cast(IO[bytes], hashed), mode="w|", format=tarfile.USTAR_FORMAT) as archive:
            for place, index in enumerate(shard.indices.tolist()):
                key = f"{prefix}_{shard.first + place:09d}"
                row = {"split": shard.split, "key": key, "shard": tar.name}
                rows.append(row | _add(archive, key, images, index))
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    notes = json.dumps({"sha256": hashed.digest.hexdigest(), "size": hashed.size})
    with open_atomically(part) as file:
        pq.write_table(table.replace_schema_metadata({PART: notes}), file)
    return len(rows)


class _Hashed:
    """A file to write to, with the SHA-256 and the number of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = sha256()
        self.size = 0

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.size += len(content)
        return self._file.write(content)


def _add(archive: tarfile.TarFile, key: str, images: Joined, index: int) -> dict[str, Any]:
    """Adds the files of an image; returns what the index says of it, apart from its place among the shards."""
    sample = images[index]
    head, place = next(iter(images.parts(index).items()))
    image = images.sources[head].encoded_image(place)
    suffix = image.suffix if image.suffix in SUFFIXES else _OTHER_SUFFIX
    height, width = sample.image.shape[:2]
    row: dict[str, Any] = {"image_id": sample.image_id, "height": height, "width": width, "suffix": image.suffix}
    row["offset"], row["size"], row["sha256"] = _add_file(archive, f"{key}{suffix}", image.data)
    truth = _ground_truth(sample)
    if sample.mask is not None:
        png = encode_png(sample.mask)
        row["mask_offset"], row["mask_size"], row["mask_sha256"] = _add_file(archive, f"{key}{_MASK}", png)
        classes, pixels = np.unique(sample.mask, return_counts=True)
        row |= {"mask_classes": classes.tolist(), "mask_pixels": pixels.tolist()}
    if sample.label is not None:
        _add_file(archive, f"{key}{_CLASS}", str(sample.label).encode())
    notes = {"image_id": sample.image_id, "height": height, "width": width} | truth
    _add_file(archive, f"{key}{_NOTES}", json.dumps(notes | _named(truth, images.class_names)).encode())
    return row | truth


def _add_file(archive: tarfile.TarFile, name: str, content: bytes) -> tuple[int, int, bytes]:
    """Adds a file; returns where its bytes begin, their number and their SHA-256."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    offset = archive.offset + tarfile.BLOCKSIZE
    archive.addfile(info, BytesIO(content))
    return offset, len(content), sha256(content).digest()


def _ground_truth(sample: Sample) -> dict[str, Any]:
    """Returns the columns of a sample's ground truth, except those of a mask."""
    truth: dict[str, Any] = {}
    if sample.label is not None:
        truth["label"] = sample.label
    if sample.boxes is not None:
        assert sample.labels is not None
        assert sample.crowd is not None
        truth |= {"boxes": sample.boxes.reshape(-1).tolist()}
        truth |= {"labels": sample.labels.tolist(), "crowd": sample.crowd.tolist()}
    if (annotated := sample.annotated) is not None:
        truth |= {
            "annotated_boxes": annotated.boxes.reshape(-1).tolist(),
            "annotated_labels": annotated.class_ids.tolist(),
            "annotated_crowd": annotated.crowd.tolist(),
            "annotated_areas": annotated.areas.tolist(),
            "annotated_order": annotated.order,
        }
    return truth


def _named(truth: Mapping[str, Any], class_names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns the class names of a ground truth, for readers without the index."""
    named: dict[str, Any] = {}
    if "label" in truth:
        named["class"] = class_names["classification"][truth["label"]]
    if "labels" in truth:
        named["classes"] = [class_names["detection"][label] for label in truth["labels"]]
    return named
