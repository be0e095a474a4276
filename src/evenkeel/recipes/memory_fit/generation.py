"""What is held at the same time while answers are sampled."""

from __future__ import annotations

import math

from evenkeel.recipes.memory_fit import states
from evenkeel.recipes.memory_fit.activations import FP32, Pass
from evenkeel.recipes.memory_fit.rank import (
    Parts,
    Phase,
    Rank,
    forward_only,
    gradient_buffers,
    logits_bytes,
)
from evenkeel.recipes.memory_fit.weights import weights_of
from evenkeel.recipes.schema import Algorithm, Generation

VLLM_SHARE = 0.4
"""Of the card, as ``training/generation/vllm.py`` asks for."""
MIN_ROOM = 16
"""Tokens, as in ``training/backends/key_value_cache.py``."""


def generate(rank: Rank) -> Phase | None:
    """Sampling of answers where it shares the ranks of the training; None: it does not."""
    policy = rank.recipe.policy
    settings = policy.generation or Generation()
    if not rank.generates or not settings.colocated.enabled:
        return None
    parts: Parts = {**rank.static(), **gradient_buffers(rank)}
    if rank.has_vllm:
        largest = max(weight.numel for weight in weights_of(rank.model)) * FP32
        return Phase(
            "generate",
            {**parts, "gathered": largest, "vllm": VLLM_SHARE * rank.card_memory},
        )
    run = rank.run(_rows_of_generation(rank))
    vocabulary = rank.model.text.vocab_size
    per_logit = run.element_size + 3 * FP32
    parts["gathered"] = rank.states.gathered_all
    shares_tokens = rank.layout.cp > 1 if run.on_megatron else rank.layout.sequence_parallel
    if shares_tokens:  # no cache: whole rows run again for every token
        of_rows = forward_only(rank, run), logits_bytes(rank, run, per_logit)
        return Phase("generate", {**parts, "activations": of_rows[0], "logits": of_rows[1]})
    new_tokens = settings.max_new_tokens or run.seq_length // 2
    prompt = max(1, run.seq_length - new_tokens)
    run_of_prompts = rank.run(_prompts_of_generation(rank))
    of_prompt = {
        "activations": forward_only(rank, run_of_prompts) * prompt / run.seq_length,
        "kv_cache": kv_cache(rank, run, prompt),
    }
    of_last_token = {
        "kv_cache": kv_cache(rank, run, run.seq_length, prompt),
        "logits": run.rows * vocabulary * per_logit,
    }
    times = [Phase("generate", {**parts, **more}) for more in (of_prompt, of_last_token)]
    return max(times, key=lambda phase: phase.total)


def kv_cache(rank: Rank, run: Pass, seq_length: int, prompt: int | None = None) -> float:
    """Keys and values of all layers of a rank (Pope et al. 2022, arXiv:2211.05102, section 3.3).

    The room of the ``prompt`` grows until ``seq_length`` tokens are in it, one layer after the
    other: on fsdp2 to an eighth more than is needed, values after keys; on megatron it doubles.
    """
    per_token = run.element_size * (rank.model.text.kv_width + _value_width(rank)) / rank.layout.tp
    per_token *= run.rows
    room = before = prompt or seq_length
    while room < seq_length:
        needed = room + 1
        grown = 2 * room if run.on_megatron else needed + max(MIN_ROOM, needed // 8)
        room, before = grown, room
    growing = 0.0 if room == before else before * (1.0 if run.on_megatron else 0.5)
    return per_token * (room * len(rank.layers) + growing)


def _value_width(rank: Rank) -> int:
    text = rank.model.text
    return text.value_width if text.latent else text.kv_width


def _rows_of_generation(rank: Rank) -> int:
    """All answers of a step that a rank samples, at once."""
    recipe, dp = rank.recipe, rank.layout.dp
    if recipe.grpo is not None and recipe.algorithm is Algorithm.GRPO:
        return max(recipe.grpo.answers_per_rank(dp), recipe.val_samples_per_pass(dp))
    return math.ceil(recipe.policy.train_global_batch_size / dp)


def _prompts_of_generation(rank: Rank) -> int:
    """Of those answers' prompts, how many differ: each is in the model once."""
    recipe, dp = rank.recipe, rank.layout.dp
    if recipe.grpo is not None and recipe.algorithm is Algorithm.GRPO:
        of_step = math.ceil(recipe.grpo.num_prompts_per_step / dp)
        return max(of_step, recipe.val_samples_per_pass(dp))
    return _rows_of_generation(rank)


def vllm_needs(rank: Rank) -> float | None:
    """Bytes without which an engine cannot start: its weights and one sequence's cache."""
    settings = rank.recipe.policy.generation
    if settings is None or not rank.has_vllm:
        return None
    w = states.element_size(rank.recipe.policy.precision)
    size = sum(weight.numel for weight in weights_of(rank.model)) * w
    text = rank.model.text
    width = text.latent.kv_rank + text.latent.rope_size if text.latent else 2 * text.kv_width
    cache = rank.recipe.policy.max_total_sequence_length * width * w * text.num_layers
    return (size + cache) / settings.tensor_parallel_size
