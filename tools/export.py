"""Writes a trained model as a file that runs without torch, and checks that it answers as before.

python tools/export.py
python tools/export.py checkpoint=outputs/detection/coco/2026-01-31_12-00-00 format=openvino precision=fp16
python tools/export.py checkpoint=models/mobilenet_v2 precision=int8 calibration=photos/
python tools/export.py checkpoint=mobilenet_v2_1.0_224_quant.tflite output=models/mobilenet_v2
python tools/export.py checkpoint=RUN precision=int8 dataset=coco dataset.root=DIR

The file lies in the model folder, where tools/infer.py finds it. The exit code is 1 where the check fails; then there
is no file.
"""

from omegaconf import DictConfig

from mbv2kit.cli.config import run_tool


def job(config: DictConfig) -> int:
    """Exports; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.exporting.run import export

    return export(config)


if __name__ == "__main__":
    run_tool(__file__, "export", job, parts=True)
