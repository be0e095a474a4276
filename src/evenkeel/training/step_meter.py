"""Speed and memory of each step, in the metrics' names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evenkeel.recipes.schema import Recipe
from evenkeel.training import models
from evenkeel.training.algorithms.interface import StepResult
from evenkeel.training.distributed import World
from evenkeel.training.throughput import (
    Throughput,
    max_memory_gib,
    num_params_without_embedding,
    peak_flops,
    train_flops_per_token,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class StepMeter:
    """``train/tokens_per_sec_per_gpu``, ``train/max_memory_gib`` (of rank 0), ``train/mfu``."""

    def __init__(self, recipe: Recipe, config: PretrainedConfig, world: World) -> None:
        """Look up the device's peak; where there is none, ``train/mfu`` is not reported."""
        self._device = world.device
        peak = None
        # the formula counts tokens, and a vision tower works on patches
        if world.device.type == "cuda" and not models.sees_images(config):
            name = torch.cuda.get_device_name(world.device)
            peak = peak_flops(name, recipe.policy.precision)
        length = recipe.policy.max_total_sequence_length
        flops = 0.0 if peak is None else flops_per_token(config, length)
        self._throughput = Throughput(world.ranks.world_size, flops, peak)

    def __call__(self, result: StepResult, step_time_s: float) -> dict[str, float]:
        """Metrics of a step that took so long, in seconds."""
        return {
            **self._throughput.metrics(result.num_tokens, step_time_s),
            "train/max_memory_gib": max_memory_gib(self._device),
        }


def flops_per_token(config: PretrainedConfig, seq_length: int) -> float:
    """Of one training pass; see ``train_flops_per_token``."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return train_flops_per_token(
        num_params_without_embedding(models.build_on_meta(config)),
        text.num_hidden_layers,
        heads * head_dim,
        seq_length,
    )
