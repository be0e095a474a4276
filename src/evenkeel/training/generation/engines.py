"""Which engine a recipe generates with."""

from __future__ import annotations

from collections.abc import Collection

from evenkeel.recipes.schema import Generation, GenerationBackend
from evenkeel.recipes.support import check_generation
from evenkeel.training.algorithms.interface import Ingredients
from evenkeel.training.generation.builtin import BuiltinEngine
from evenkeel.training.generation.interface import GenerationEngine


def build(ingredients: Ingredients, stop_ids: Collection[int]) -> GenerationEngine:
    """The engine that ``policy.generation.backend`` names.

    Raises:
        InputError: the section asks for what that engine cannot do, or it is not installed.
    """
    policy = ingredients.recipe.policy
    settings = policy.generation or Generation()
    check_generation(policy, ingredients.backend.place.size)
    if settings.backend is GenerationBackend.VLLM:
        from evenkeel.training.generation.vllm import VllmEngine

        return VllmEngine(ingredients, stop_ids)
    return BuiltinEngine(ingredients.backend, stop_ids, ingredients.pad_id)
