"""Run as a script on each of two ranks: how far split models are from transformers' own.

Takes a list of ports, as many as there are layouts; rank 0 prints, as JSON, by layout and family
the largest difference of log probabilities, or the message of an ``InputError``.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import replace
from typing import Any

import torch
from model_families import FAMILIES, ONLY_TORCH, recipe_of, text_batch
from test_vision import GEMMA, QWEN, RECIPE, SMOLVLM, micro_batch

from evenkeel.errors import InputError
from evenkeel.recipes import config
from evenkeel.recipes.schema import Backend, Parallel, Recipe
from evenkeel.training import models
from evenkeel.training.backends.fsdp2 import Fsdp2Backend
from evenkeel.training.backends.interface import ModelOutput
from evenkeel.training.data.batches import MicroBatch
from evenkeel.training.distributed import World, joined

TP2 = Parallel(tensor_parallel_size=2)
TP2_SP = Parallel(tensor_parallel_size=2, sequence_parallel=True)
EP2 = Parallel(tensor_parallel_size=2, expert_parallel_size=2)
EP2_SP = replace(EP2, sequence_parallel=True)
LAYOUTS = {
    "torch tp2": (Backend.FSDP2, TP2),
    "torch tp2 + sp": (Backend.FSDP2, TP2_SP),
    "torch tp2, ep2": (Backend.FSDP2, EP2),
    "torch tp2, ep2 + sp": (Backend.FSDP2, EP2_SP),
    "megatron tp2 + sp": (Backend.MEGATRON, TP2_SP),
    "megatron pp2": (Backend.MEGATRON, Parallel(pipeline_parallel_size=2)),
    "megatron ep2": (Backend.MEGATRON, Parallel(expert_parallel_size=2)),
}
VISION = {"llava": None, "qwen2_5_vl": QWEN, "smolvlm": SMOLVLM, "gemma3": GEMMA}
"""Of which megatron-core has the first."""


def recipes(backend: Backend, parallel: Parallel) -> dict[str, Recipe]:
    """By family."""
    shares_experts = parallel.expert_parallel_size > 1
    shapes = dict(FAMILIES)
    if shares_experts:
        shapes = {name: shape for name, shape in shapes.items() if "experts" in str(shape)}
    elif backend is Backend.FSDP2:
        shapes |= ONLY_TORCH
    found = {name: recipe_of(shape, backend, parallel=parallel) for name, shape in shapes.items()}
    vision = {} if shares_experts else VISION
    for name, described in vision.items():
        if backend is Backend.MEGATRON and name != "llava":
            continue
        recipe = config.load(RECIPE).recipe
        recipe.data.dataset, recipe.policy.parallel = "shapes", parallel
        recipe.policy.backend = backend
        recipe.policy.model_config = described or recipe.policy.model_config
        found[name] = recipe
    return found


def difference(recipe: Recipe, world: World) -> float:
    """Largest, of log probabilities in fp32."""
    described = models.load_config(recipe.policy)
    backend: Any
    if recipe.policy.backend is Backend.MEGATRON:
        from evenkeel.training.backends.megatron.backend import MegatronBackend

        backend = MegatronBackend(recipe, described, world)
    else:
        backend = Fsdp2Backend(recipe, described, world)
    sees = models.sees_images(described)
    batch = micro_batch(recipe) if sees else text_batch()

    def read(output: ModelOutput, _: MicroBatch) -> dict[str, torch.Tensor]:
        return {"logs": output.log_probs()}

    found = backend.read([batch], read)[0]["logs"]
    whole = models.build(recipe, described).eval()
    inputs: dict[str, torch.Tensor] = dict(batch.images)
    is_image = (batch.input_ids == 265).long()
    if described.model_type == "smolvlm":  # as (rows, images of a row, …)
        inputs["pixel_values"] = inputs["pixel_values"][:, None]
    if described.model_type == "qwen2_5_vl":
        inputs["mm_token_type_ids"] = is_image
    if described.model_type == "gemma3":
        inputs["token_type_ids"] = is_image
    if sees:
        inputs["attention_mask"] = batch.attention_mask
    with torch.no_grad():
        wanted = whole(batch.input_ids, **inputs).logits.log_softmax(-1)
    tokens = batch.attention_mask.bool()
    assert wanted[tokens].std() > 0.05
    return float((found - wanted)[tokens].abs().max())


def measure(ports: list[int]) -> dict[str, dict[str, float | str]]:
    """By layout and family."""
    table: dict[str, dict[str, float | str]] = {}
    for port, (layout, (backend, parallel)) in zip(ports, LAYOUTS.items(), strict=True):
        os.environ["MASTER_PORT"] = str(port)
        table[layout] = {}
        with joined(recipe_of({"model_type": "llama"})) as world:
            for family, recipe in recipes(backend, parallel).items():
                try:
                    table[layout][family] = difference(recipe, world)
                except InputError as error:
                    table[layout][family] = error.message
    return table


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(measure(json.loads(sys.argv[1]))))
