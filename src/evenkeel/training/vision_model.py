"""What is particular to a vision-language model: its parts, and its forward pass's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Algorithm, Backend, Policy, Recipe, Vision
from evenkeel.training import models

TOWERS = ("vision_tower", "visual", "vision_model")
PROJECTORS = ("multi_modal_projector", "connector", "visual.merger")
"""What transformers' architectures call their parts, below ``model.model``."""

TILED = ("idefics2", "idefics3", "smolvlm")
"""Types that want images as (rows, images of a row, 3, height, width); one row may hold all."""
ONE_DIMENSIONAL = ("llava",)
"""Types in which an image's tokens have positions and see each other like those of a text, so that
samples can share a row."""

ON_MEGATRON = ("llava",)
"""Types that megatron-core has a model of, too."""

TRAINED_WITH_IMAGES = (Algorithm.SFT, Algorithm.GRPO)


def check_recipe(recipe: Recipe, config: Any) -> None:
    """Raise an error where recipe and model do not agree on whether there are images.

    Raises:
        InputError: with the key to change.
    """
    policy, sees = recipe.policy, models.sees_images(config)
    if policy.vision is None:
        if sees:
            raise InputError(
                f"{config.model_type} is a vision-language model, and the recipe has no "
                "policy.vision",
                fix="set policy.vision={}, also where the data is text alone",
            )
        return
    if not sees:
        raise InputError(
            f"the recipe has policy.vision, and {config.model_type} sees no images",
            fix="remove the section, or name a vision-language model",
        )
    seen = policy.vision
    if seen.freeze_vision_tower and seen.freeze_projector and seen.freeze_language_model:
        raise InputError(
            "vision tower, projector and language model are all frozen, so nothing is trained",
            fix="set one of policy.vision.freeze_* to false",
        )
    if policy.backend is Backend.MEGATRON:
        _check_megatron(policy, config.model_type)
    if recipe.algorithm not in TRAINED_WITH_IMAGES:
        raise InputError(
            f"vision-language models are not trained by {recipe.algorithm.value}",
            fix=f"use {' or '.join(TRAINED_WITH_IMAGES)}",
        )
    if policy.sequence_packing.enabled and config.model_type not in ONE_DIMENSIONAL:
        raise InputError(
            f"images of a {config.model_type} cannot be packed: their tokens do not see each "
            "other, or count positions, as those of a text do",
            fix="set policy.sequence_packing.enabled=false; policy.dynamic_batching works",
        )
    shares = policy.parallel.sequence_parallel and policy.parallel.tensor_parallel_size > 1
    # the torch backend would run whole rows again for each token, and forget their images
    forgets = shares and policy.backend is Backend.FSDP2
    if forgets and recipe.algorithm is Algorithm.GRPO:
        raise InputError(
            "a vision-language model with sequence parallelism cannot generate",
            fix="set policy.parallel.sequence_parallel=false",
        )


def _check_megatron(policy: Policy, model_type: str) -> None:
    if model_type not in ON_MEGATRON:
        raise InputError(
            f"policy.backend is megatron, and megatron-core has no model that sees images as a "
            f"{model_type} does",
            fix=f"set policy.backend=fsdp2, or describe a {' or '.join(ON_MEGATRON)}",
        )
    if policy.parallel.context_parallel_size > 1:
        raise InputError(
            f"policy.parallel.context_parallel_size is {policy.parallel.context_parallel_size}, "
            "and megatron-core shares rows with images out through Transformer Engine and "
            "megatron.training, which it does not bring",
            fix="set policy.parallel.context_parallel_size=1",
        )


def freeze(model: nn.Module, vision: Vision | None) -> None:
    """Take the parts that the recipe freezes out of training, in place."""
    if vision is None:
        return
    frozen: dict[str, bool] = {}
    for part, names in _parts(model):
        held = {
            "tower": vision.freeze_vision_tower,
            "projector": vision.freeze_projector,
            "language": vision.freeze_language_model,
        }[part]
        frozen.update(dict.fromkeys(names, held))
    for name, weight in model.named_parameters():
        weight.requires_grad_(not frozen[name])


def _parts(model: nn.Module) -> Iterator[tuple[str, list[str]]]:
    """(part, names of its weights); a later one may claim weights of an earlier one."""
    names = [name for name, _ in model.named_parameters()]
    yield "language", names  # what is no other's, the output layer among it
    for part, paths in (("tower", TOWERS), ("projector", PROJECTORS)):
        prefixes = tuple(f"model.{path}." for path in paths)
        found = [name for name in names if name.startswith(prefixes)]
        if not found:
            raise InputError(
                f"{type(model).__name__} has no {part} under any known name: {', '.join(paths)}"
            )
        yield part, found


def forward_inputs(
    model: nn.Module, input_ids: Tensor, images: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Arguments of the model's forward pass for the images of a micro-batch.

    Args:
        model: of transformers.
        input_ids: (batch, seq).
        images: of ``MicroBatch``; empty for a model without vision.
    """
    if not images:
        return {}
    config: Any = model.config
    inputs = dict(images)
    if config.model_type in TILED:
        inputs = {name: tensor[None] for name, tensor in inputs.items()}
    # 1 on image tokens: Gemma 3 lets them see each other, Qwen gives them rows and columns
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in _arguments(model):
            inputs[name] = (input_ids == models.image_token_id(config)).long()
    return inputs


def makes_positions(model: nn.Module) -> bool:
    """Whether the model itself gives tokens their positions, in rows and columns of an image."""
    return "mm_token_type_ids" in _arguments(model)


def position_offsets(model: nn.Module) -> Tensor:
    """(batch, 1): after a forward pass with images, what a later token's position is ahead of its
    place in the row by; negative, since an image's tokens share positions."""
    inner: Any = model.model
    offsets: Tensor = inner.rope_deltas
    return offsets


def _arguments(model: nn.Module) -> Mapping[str, Any]:
    return inspect.signature(type(model).forward).parameters
