"""What is particular to a vision-language model: its parts, and its forward pass's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from evenkeel.errors import InputError
from evenkeel.recipes.model_support import check_images
from evenkeel.recipes.schema import Recipe, Vision
from evenkeel.training import models

TOWERS = ("vision_tower", "visual", "vision_model")
PROJECTORS = ("multi_modal_projector", "connector", "visual.merger")
"""What transformers' architectures call their parts, below ``model.model``."""

TILED = ("idefics2", "idefics3", "smolvlm")
"""Types that want images as (rows, images of a row, 3, height, width); one row may hold all."""


def check_recipe(recipe: Recipe, config: Any) -> None:
    """Raise an error where recipe and model do not agree on whether there are images.

    Raises:
        InputError: with the key to change.
    """
    check_images(recipe, config.model_type, sees=models.sees_images(config))


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
