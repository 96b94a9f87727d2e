import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.imaging.images import UnreadableImageError, decode

GRAYS = np.array([[0, 51, 102, 255]]).repeat(3, axis=0)


@pytest.mark.parametrize(
    "values",
    [
        GRAYS.astype(np.float32) / 255,
        GRAYS.astype(np.float32),
        GRAYS.astype(np.float32) * 257,
        GRAYS.astype(np.int32),
        GRAYS.astype(np.int32) * 257,
        GRAYS.astype(np.uint16) * 257,
        # As a cubic filter leaves them.
        GRAYS.astype(np.float32) / 255 * 1.002 - 0.001,
    ],
)
def test_deep_values_are_scaled_by_their_type_and_range(tmp_path: Path, values: NDArray[np.generic]) -> None:
    PillowImage.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(decode(tmp_path / "a.tif"), GRAYS[:, :, None].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-1, 1]], np.float32), r"its values are -1\.\.1, expected 0\.\.1 or 0\.\.255 or 0\.\.65535"),
        (np.array([[0, 1e6]], np.float32), r"its values are 0\.\.1e\+06"),
        (np.array([[0, np.nan]], np.float32), r"its values are nan\.\.nan"),
        (np.array([[0, np.inf]], np.float32), r"its values are 0\.\.inf"),
        (np.array([[0, 70_000]], np.int32), r"its values are 0\.\.7e\+04, expected 0\.\.255 or 0\.\.65535"),
        (np.array([[-5, 70]], np.int32), r"its values are -5\.\.70"),
    ],
)
def test_values_of_no_usual_range_are_refused(tmp_path: Path, values: NDArray[np.generic], message: str) -> None:
    PillowImage.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match=rf"a\.tif: .*{message}"):
        decode(tmp_path / "a.tif")


def test_a_dark_image_of_16_bits_stays_dark(tmp_path: Path) -> None:
    values = np.array([[0, 200, 255]], dtype=np.uint16)
    PillowImage.fromarray(values).save(tmp_path / "a.png")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + values.astype(">u2").tobytes())
    for name in ("a.png", "a.pgm"):
        assert decode(tmp_path / name)[0, :, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("top", [1, 255, 65_535])
def test_floats_of_another_format_are_scaled_by_their_range_too(tmp_path: Path, top: int) -> None:
    values = GRAYS.astype(np.float32) / 255 * top
    (tmp_path / "a.pfm").write_bytes(b"Pf\n4 3\n-1.0\n" + values[::-1].astype("<f4").tobytes())
    assert decode(tmp_path / "a.pfm")[0, :, 0].tolist() == [0, 51, 102, 255]


def test_a_tiff_that_pillow_does_not_know_is_named_as_such(tmp_path: Path) -> None:
    path = str(tmp_path / "a.tif")
    assert cv2.imwrite(path, np.zeros((4, 4, 3), dtype=np.float32))
    with pytest.raises(
        UnreadableImageError, match=r"a\.tif: the image could not be read \(it is a damaged TIFF, or one"
    ):
        decode(path)


def test_a_tiff_that_claims_more_rows_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    PillowImage.new("I", (32, 24), 7).save(path)
    content = path.read_bytes()
    # Tag 257, the height, of one 16-bit or 32-bit value.
    place = next(content.index(head) for kind in (3, 4) if (head := struct.pack("<HHI", 257, kind, 1)) in content)
    tall = struct.pack("<HHII", 257, 4, 1, 2_000_000)
    path.write_bytes(content[:place] + tall + content[place + len(tall) :])
    with pytest.raises(UnreadableImageError, match=r"its parts hold 768 of 64,000,000 pixels"):
        decode(path)
