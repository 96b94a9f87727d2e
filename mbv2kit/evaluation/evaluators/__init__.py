"""Evaluators by name, one module each; a module of this package that registers one adds it."""

from mbv2kit.evaluation.evaluators.base import EVALUATORS, Evaluator, create_evaluator

__all__ = ["EVALUATORS", "Evaluator", "create_evaluator"]
