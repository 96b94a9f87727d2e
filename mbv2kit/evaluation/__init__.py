"""How good a model is: an evaluator per task, fed image by image, and what becomes of its metrics.

An evaluator gets predictions in the pixels of the image and the untouched sample, so that its metrics do not depend on
the model's input size.
"""

from mbv2kit.evaluation.evaluators import EVALUATORS, Evaluator, create_evaluator
from mbv2kit.evaluation.scores import Scores, model_in_brief, per_class_table, print_scores, write_metrics

__all__ = [
    "EVALUATORS",
    "Evaluator",
    "Scores",
    "create_evaluator",
    "model_in_brief",
    "per_class_table",
    "print_scores",
    "write_metrics",
]
