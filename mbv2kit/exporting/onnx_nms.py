"""Adds non-maximum suppression to an ONNX file, for programs that expect final boxes.

It is ONNX's operator NonMaxSuppression, which examines every class of every box. This takes longer than
:class:`mbv2kit.imaging.postprocess.NmsOptions`, which mbv2kit uses for files without suppression; see
docs/performance.md.
"""

from pathlib import Path

import onnx
import onnx.compose
import onnx.parser

from mbv2kit.imaging.postprocess import DETECTIONS, NmsOptions, output_name

# NonMaxSuppression accepts x and y in any order if it is the same in all boxes. Rows of zeros after the boxes ensure
# that there are always max_detections rows.
_TAIL = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
suppress (float[1, boxes, 4] boxes, float[1, boxes, classes] scores) => (float[1, {count}, 6] {output})
{{
    count = Constant <value_ints = [{count}]> ()
    iou = Constant <value_floats = [{iou}]> ()
    threshold = Constant <value_floats = [{threshold}]> ()
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    three = Constant <value_ints = [3]> ()
    box_column = Constant <value_int = 2> ()
    score_column = Constant <value_int = 4> ()
    class_column = Constant <value_int = 1> ()
    low = Constant <value_float = 0.0> ()
    high = Constant <value_float = 1.0> ()
    side = Constant <value_floats = [{width}, {height}, {width}, {height}]> ()
    padding = Constant <value_ints = [0, 0, {count}, 0]> ()

    clipped = Clip (boxes, low, high)
    by_class = Transpose <perm = [0, 2, 1]> (scores)
    kept = NonMaxSuppression (clipped, by_class, count, iou, threshold)
    box = Gather <axis = 1> (kept, box_column)
    class = Gather <axis = 1> (kept, class_column)
    place = Slice (kept, one, three, one)

    all_boxes = Squeeze (clipped, zero)
    all_scores = Squeeze (by_class, zero)
    unit_boxes = Gather <axis = 0> (all_boxes, box)
    pixels = Mul (unit_boxes, side)
    score = GatherND (all_scores, place)
    score_cell = Unsqueeze (score, one)
    class_number = Cast <to = 1> (class)
    class_cell = Unsqueeze (class_number, one)
    rows = Concat <axis = 1> (pixels, score_cell, class_cell)

    filled = Pad (rows, padding)
    filled_score = Gather <axis = 1> (filled, score_column)
    best_score, best = TopK (filled_score, count)
    best_rows = Gather <axis = 0> (filled, best)
    {output} = Unsqueeze (best_rows, zero)
}}
"""


def add_nms(path: Path, nms_options: NmsOptions, size: tuple[int, int], head: str = "detection") -> None:
    """Replaces the outputs ``boxes`` and ``scores`` by ``detections`` ``(1, max_detections, 6)``.

    :mod:`mbv2kit.imaging.postprocess` describes these outputs.

    Args:
        path: File of a network with a batch size of 1; it is overwritten.
        nms_options: Options of the suppression.
        size: Height and width of the input.
        head: Name of the detector.
    """
    network = onnx.load(path)
    text = _TAIL.format(
        ir_version=network.ir_version,
        opset=network.opset_import[0].version,
        count=nms_options.max_detections,
        iou=float(nms_options.nms_iou),
        threshold=float(nms_options.score_threshold),
        height=float(size[0]),
        width=float(size[1]),
        output=output_name(head, DETECTIONS),
    )
    # A prefix keeps the tail's names apart from the network's, and the number those of two detectors.
    prefix = f"suppress{len(network.graph.output)}_{head}_"
    tail = onnx.compose.add_prefix(onnx.parser.parse_model(text), prefix, rename_inputs=False, rename_outputs=False)
    whole = onnx.compose.merge_models(
        network, tail, io_map=[(output_name(head, name), name) for name in ("boxes", "scores")]
    )
    onnx.checker.check_model(whole)
    onnx.save(whole, path)
