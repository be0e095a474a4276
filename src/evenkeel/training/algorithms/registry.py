"""Which module does which algorithm; a module is imported when its algorithm is asked for."""

from __future__ import annotations

import importlib

from evenkeel.recipes.schema import Algorithm
from evenkeel.training.algorithms.interface import Ingredients, TrainingAlgorithm

MODULES = {
    Algorithm.PRETRAIN: "pretrain",
    Algorithm.SFT: "sft",
    Algorithm.DPO: "dpo",
    Algorithm.GRPO: "grpo",
    Algorithm.DISTILLATION: "distillation",
}
"""Algorithm → module of this package; its ``build(ingredients)`` makes the algorithm."""


def build(ingredients: Ingredients) -> TrainingAlgorithm:
    """The algorithm of a recipe.

    Raises:
        InputError: a setting of it is out of range.
    """
    algorithm = ingredients.recipe.algorithm
    module = importlib.import_module(f"evenkeel.training.algorithms.{MODULES[algorithm]}")
    built: TrainingAlgorithm = module.build(ingredients)
    return built
