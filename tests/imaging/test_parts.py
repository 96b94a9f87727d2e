from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from mbv2kit.imaging.images import UnreadableImageError, decode
from mbv2kit.imaging.jpeg import decode_jpeg, decode_top
from mbv2kit.imaging.parts import FileParts, KnownParts
from mbv2kit.imaging.resizing import largest_block, resize_image
from mbv2kit.structures import Image
from tests.imaging.drawn import STORED, save_turned, scene

SIZE = (301, 403)


def jpeg(image: Image, **options: Any) -> bytes:
    buffer = BytesIO()
    PillowImage.fromarray(image).save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


@pytest.mark.parametrize("reduced", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_the_upper_rows_are_those_of_the_whole_bit_for_bit(subsampling: str, reduced: int) -> None:
    data = jpeg(scene(*SIZE), subsampling=subsampling)
    whole = decode_jpeg(data, SIZE, reduced)
    for rows in (1, 16, 99, 160, 200, 287, 300, 301):
        top = decode_top(data, SIZE, reduced, rows)
        needed = -(-rows // reduced)
        assert needed <= len(top) <= len(whole)
        assert np.array_equal(top[:needed], whole[:needed])


def test_the_lower_rows_are_left_out() -> None:
    assert len(decode_top(jpeg(scene(*SIZE)), SIZE, 1, 100)) == 102
    gray = jpeg(scene(*SIZE)[..., 0])
    assert np.array_equal(decode_top(gray, SIZE, 1, 100), decode_jpeg(gray, SIZE, 1)[:102])


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 2}])
def test_files_that_do_not_store_row_after_row_are_decoded_whole(options: dict[str, Any]) -> None:
    data = jpeg(scene(*SIZE), **options)
    assert np.array_equal(decode_top(data, SIZE, 1, 100), decode_jpeg(data, SIZE, 1))


def test_damage_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    data = bytearray(jpeg(scene(*SIZE)))
    place = len(data) * 9 // 10
    del data[place : place + 300]
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: the image could not be read"):
        FileParts(tmp_path / "a.jpg").cut((0, 100, 400, 300), 200, 400)
    whole = decode_jpeg(jpeg(scene(*SIZE)), SIZE, 1)
    assert np.array_equal(FileParts(tmp_path / "a.jpg").cut((5, 9, 45, 29), 20, 40), whole[9:29, 5:45])


@pytest.mark.parametrize("rows", [10, 250, 301])
def test_a_file_that_is_cut_short_is_refused_whatever_the_part(tmp_path: Path, rows: int) -> None:
    data = jpeg(scene(*SIZE))
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: the image could not be read"):
        FileParts(tmp_path / "a.jpg").cut((0, 0, 400, rows), rows, 400)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_part_of_a_turned_file_is_that_of_the_upright_image(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    # Whole blocks, so that they lie alike from either side.
    save_turned(scene(248, 328), orientation, path)
    parts, whole = FileParts(path), KnownParts(decode(path))
    assert parts.size == whole.size == (248, 328)
    for box, size in (((31, 52, 313, 219), (40, 61)), ((0, 0, 328, 248), (30, 40)), ((101, 77, 140, 240), (90, 39))):
        part, expected = parts.cut(box, *size), whole.cut(box, *size)
        assert part.shape == (*size, 3)
        assert np.abs(part.astype(int) - expected).mean() < 0.6


@given(
    corner=st.tuples(st.integers(0, 200), st.integers(0, 250)),
    sides=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
)
@settings(max_examples=60, deadline=None)
def test_a_part_lies_where_it_lies(corner: tuple[int, int], sides: tuple[int, int], size: tuple[int, int]) -> None:
    # On a ramp the value of a pixel is the place that it came from: the center of its share of the part.
    rows, columns = np.arange(240, dtype=np.uint8)[:240], np.arange(255, dtype=np.uint8)
    ramps = np.stack(np.broadcast_arrays(rows[:, None], columns, np.uint8(0)), axis=2)
    y1, x1 = min(corner[0], 239), min(corner[1], 254)
    y2, x2 = min(240, y1 + sides[0]), min(255, x1 + sides[1])
    found = KnownParts(ramps).cut((x1, y1, x2, y2), *size)
    for axis, (start, stop), wanted in ((0, (y1, y2), size[0]), (1, (x1, x2), size[1])):
        centers = start + (np.arange(wanted) + 0.5) * (stop - start) / wanted - 0.5
        # At its border a part may repeat its last pixel, or its last block.
        border = largest_block(stop - start, wanted)
        inside = (centers >= start + border) & (centers <= stop - 1 - border)
        np.testing.assert_allclose(found[..., axis].mean(axis=1 - axis)[inside], centers[inside], atol=1.3)


def test_a_part_that_is_not_reduced_is_resized_as_it_is() -> None:
    image = scene(*SIZE)
    part = KnownParts(image).cut((31, 40, 231, 190), 100, 160)
    assert np.array_equal(part, resize_image(image[40:190, 31:231], 100, 160))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_averages_serve_parts_as_well_as_the_file(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_turned(scene(247, 325), orientation, path)
    file = FileParts(path)
    averages = KnownParts(file.averages(2), file.head, 2)
    assert averages.size == (247, 325)
    for box, size in (((30, 52, 312, 219), (40, 61)), ((31, 11, 163, 99), (44, 66)), ((1, 1, 325, 247), (30, 40))):
        assert np.abs(averages.cut(box, *size).astype(int) - file.cut(box, *size)).mean() < 0.6


def test_only_what_a_part_needs_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = simplejpeg.decode_jpeg

    def spy(data: bytes, *arguments: Any, buffer: Image, **options: Any) -> Image:
        decoded.append(buffer.size)
        return original(data, *arguments, buffer=buffer, **options)  # type: ignore[no-any-return]

    PillowImage.fromarray(scene(800, 1200)).save(tmp_path / "a.jpg")
    monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
    FileParts(tmp_path / "a.jpg").cut((100, 80, 700, 380), 70, 140)
    # A quarter of the size, down to the last row and some below it.
    assert decoded == [300 * 3 * (380 + 3 * 4) // 4]
