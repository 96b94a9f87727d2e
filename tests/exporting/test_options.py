from typing import Any

import pytest

from mbv2kit.errors import UserError
from mbv2kit.exporting.options import ExportOptions


def test_a_size_is_height_and_width() -> None:
    assert ExportOptions(size=[96, 160]).size == (96, 160)  # type: ignore[arg-type]
    assert ExportOptions().size is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"format": "onx"}, "format 'onx' is unknown. Did you mean 'onnx'"),
        ({"precision": "fp16"}, "format=onnx is written in fp32, int8, not precision=fp16."),
        ({"precision": "int4"}, "not precision=int4"),
        ({"nms": True}, "nms=true needs format=onnx and batch=1, got format=onnx and batch=None"),
        ({"calibration": "photos"}, "int8 takes its ranges, but precision=fp32; set precision=int8, or leave it out"),
        ({"nms": True, "batch": 1, "format": "openvino"}, "nms=true needs format=onnx"),
    ],
)
def test_wrong_options_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExportOptions(**keys)
