"""The format of the index of shards: a row of Parquet for each image, with its place in a tar and its ground truth.

Importing it needs the extra [shards].
"""

import pyarrow as pa

INDEX = "index.parquet"
# The key of the metadata, whose value is JSON.
METADATA = b"mbv2kit.shards"
FORMAT = 1

_DIGEST = pa.binary(32)
IMAGE = (
    pa.field("split", pa.string()),
    pa.field("key", pa.string()),  # the name of the image's files in the tar, up to the first dot
    pa.field("image_id", pa.string()),
    pa.field("shard", pa.string()),  # the name of the tar, which lies next to the index
    pa.field("height", pa.int32()),  # of the upright image
    pa.field("width", pa.int32()),
    pa.field("suffix", pa.string()),
    pa.field("offset", pa.int64()),  # of the image's bytes in the tar
    pa.field("size", pa.int64()),
    pa.field("sha256", _DIGEST),
)
# The ground truth of each task; the first column is null where an image has none.
CLASSIFICATION = (pa.field("label", pa.int32()),)
DETECTION = (
    pa.field("boxes", pa.list_(pa.float32())),  # x1, y1, x2, y2 of each
    pa.field("labels", pa.list_(pa.int32())),
    pa.field("crowd", pa.list_(pa.bool_())),
)
# What COCO's protocol evaluates; null where that is the boxes.
ANNOTATED = (
    pa.field("annotated_boxes", pa.list_(pa.float64())),  # x, y, width, height of each
    pa.field("annotated_labels", pa.list_(pa.int32())),
    pa.field("annotated_crowd", pa.list_(pa.bool_())),
    pa.field("annotated_areas", pa.list_(pa.float64())),
    pa.field("annotated_order", pa.int64()),
)
SEGMENTATION = (
    pa.field("mask_offset", pa.int64()),
    pa.field("mask_size", pa.int64()),
    pa.field("mask_sha256", _DIGEST),
    pa.field("mask_classes", pa.list_(pa.int32())),  # those that occur, also 255
    pa.field("mask_pixels", pa.list_(pa.int64())),  # the number of pixels of each
)
FIELDS = {
    "classification": CLASSIFICATION,
    "detection": (*DETECTION, *ANNOTATED),
    "segmentation": SEGMENTATION,
}
SCHEMA = pa.schema([*IMAGE, *(field for fields in FIELDS.values() for field in fields)])
