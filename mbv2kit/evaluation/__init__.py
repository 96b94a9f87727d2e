"""Measures how good a model is: an evaluator per task, and output of its metrics.

An evaluator takes the original sample and predictions in its pixels, so that metrics do not depend on the model's input
size.
"""

from mbv2kit.evaluation.evaluators import EVALUATORS, Evaluator, create_evaluator
from mbv2kit.evaluation.scores import (
    MEAN,
    Scores,
    combine,
    model_in_brief,
    per_class_table,
    print_scores,
    write_metrics,
)

__all__ = [
    "EVALUATORS",
    "MEAN",
    "Evaluator",
    "Scores",
    "combine",
    "create_evaluator",
    "model_in_brief",
    "per_class_table",
    "print_scores",
    "write_metrics",
]
