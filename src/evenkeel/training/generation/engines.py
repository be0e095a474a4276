"""Which engine a recipe generates with."""

from __future__ import annotations

from collections.abc import Collection

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Backend, Generation, GenerationBackend
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
    if not settings.colocated.enabled:
        raise InputError(
            "policy.generation.colocated.enabled is false, and generation has no nodes of its own "
            "in this version",
            fix="set policy.generation.colocated.enabled=true",
        )
    if settings.precision not in (None, policy.precision):
        raise InputError(
            f"policy.generation.precision is {settings.precision.value}, and the policy has "
            f"{policy.precision.value}",
            fix="set policy.generation.precision=null",
        )
    if settings.backend is GenerationBackend.VLLM and policy.vision is not None:
        raise InputError(
            "policy.generation.backend is vllm, which gets no images in this version",
            fix="set policy.generation.backend=transformers",
        )
    if settings.backend is GenerationBackend.VLLM:
        from evenkeel.training.generation.vllm import VllmEngine

        return VllmEngine(ingredients, stop_ids)
    if settings.tensor_parallel_size not in (1, policy.parallel.tensor_parallel_size):
        raise InputError(
            f"policy.generation.tensor_parallel_size is {settings.tensor_parallel_size}, and the "
            "training model, which generates here, is split over "
            f"{policy.parallel.tensor_parallel_size}",
            fix="remove it, or set policy.generation.backend=vllm",
        )
    experts, num_replicas = policy.parallel.expert_parallel_size, ingredients.backend.place.size
    if policy.backend is Backend.MEGATRON and experts > 1 and num_replicas > 1:
        # ranks that share experts keep step, and those with other prompts write other lengths;
        # on the torch backend they have the same prompts
        raise InputError(
            f"policy.parallel.expert_parallel_size is {experts} over {num_replicas} data-parallel "
            "ranks, whose answers differ in length: the built-in generation cannot do that",
            fix="set policy.parallel.expert_parallel_size=1, or policy.generation.backend=vllm",
        )
    return BuiltinEngine(ingredients.backend, stop_ids, ingredients.pad_id)
