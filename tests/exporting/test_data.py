from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.errors import UserError
from mbv2kit.exporting.data import ExportData
from tests.exporting.models import small_model

SHAPES: dict[str, Any] = {
    "name": "shapes",
    "root": None,
    "train_split": "train",
    "val_split": "val",
    "size": 64,
    "train_count": 20,
    "val_count": 10,
}


@pytest.fixture(scope="module")
def model_data() -> ExportData:
    model = small_model("classification")
    return ExportData(model.spec, model.preprocess, {"classification": SHAPES})


def test_images_are_spread_evenly_from_the_first_to_the_last() -> None:
    assert evenly_spaced(5, 10) == evenly_spaced(5, None) == [0, 1, 2, 3, 4]
    assert evenly_spaced(101, 5) == [0, 25, 50, 75, 100]
    assert evenly_spaced(3, 1) == [0]


def test_ranges_come_from_the_training_split_and_outputs_are_compared_on_the_other(model_data: ExportData) -> None:
    calibration, shown = model_data.calibration(None, 8), model_data.for_check(None, 4)
    assert (calibration.origin, shown.origin) == ("shapes, train", "shapes, val")
    assert [len(calibration.inputs), len(shown.inputs)] == [8, 4]
    for image in calibration.inputs:
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8


def test_named_images_take_precedence_over_the_data_set(model_data: ExportData, tmp_path: Path) -> None:
    for value in (10, 200):
        PillowImage.new("RGB", (80, 90), (value,) * 3).save(tmp_path / f"{value}.png")
    found = model_data.calibration(str(tmp_path), 100)
    assert [int(image.mean()) for image in found.inputs] == [10, 200]
    assert model_data.for_check([str(tmp_path / "10.png")], 100).inputs[0].max() == 10


def test_without_data_outputs_are_compared_on_drawn_images_and_int8_has_no_ranges(model_data: ExportData) -> None:
    bare = ExportData(model_data.spec, model_data.preprocess, {})
    shown = bare.for_check(None, 3)
    assert len(shown.inputs) == 3
    assert "drawn on the fly" in shown.origin
    assert bare.ground_truth() is None
    with pytest.raises(UserError, match=r"precision=int8 takes ranges from real images.*calibration=DIR"):
        bare.calibration(None, 8)


def test_missing_images_are_reported_with_their_key(model_data: ExportData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"calibration: .*there is no image in this folder"):
        model_data.calibration(str(tmp_path), 8)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(UserError, match=r"pictures: .*broken\.jpg"):
        model_data.for_check(str(tmp_path), 8)


def test_a_model_of_several_tasks_is_measured_on_all_of_them() -> None:
    model = small_model("classification", "segmentation")
    other = {**SHAPES, "seed": 1}
    data = ExportData(model.spec, model.preprocess, {"classification": SHAPES, "segmentation": other})
    assert data.calibration(None, 100).origin == "shapes, train"
    assert len(data.calibration(None, 100).inputs) == 40
    together = ExportData(model.spec, model.preprocess, {"classification": SHAPES, "segmentation": SHAPES})
    assert len(together.for_check(None, 100).inputs) == 10
