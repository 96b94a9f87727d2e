"""Measures a trained model on a data set.

python tools/eval.py
python tools/eval.py task=segmentation dataset=voc dataset.root=DIR
python tools/eval.py checkpoint=outputs/detection/coco/2026-01-31_12-00-00 split=val2017
python tools/eval.py checkpoint=MODEL_FOLDER dataset=coco dataset.root=DIR run_dir=outputs/check
"""

from omegaconf import DictConfig

from mbv2kit.cli.config import run_tool


def job(config: DictConfig) -> None:
    """Evaluates; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.evaluation.run import evaluate

    evaluate(config)


if __name__ == "__main__":
    run_tool(__file__, "eval", job, parts=True)
