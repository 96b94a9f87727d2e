"""Trains a model and leaves everything about it in one run folder.

python tools/train.py
python tools/train.py task=classification dataset=folder dataset.root=DIR trainer.max_epochs=50
python tools/train.py task=detection dataset=coco dataset.root=DIR backbone.width=0.5 trainer=gpu
python tools/train.py task=segmentation dataset=voc dataset.root=DIR optimizer.lr=0.0005 seed=1
python tools/train.py -m backbone.width=0.35,0.5,1.0 run_dir=outputs/widths
python tools/train.py resume=outputs/detection/coco/2026-01-31_12-00-00
"""

from omegaconf import DictConfig

from mbv2kit.cli.config import run_tool


def job(config: DictConfig) -> None:
    """Trains; what takes seconds to import is imported once the command line is known to be right."""
    from mbv2kit.training.run import train

    train(config)


if __name__ == "__main__":
    run_tool(__file__, "train", job, parts=True)
