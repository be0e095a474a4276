"""Bytes of weights, gradients and optimizer states on one rank, as the two backends hold them.

Rajbhandari et al. 2020 (arXiv:1910.02054), section 5, with what each backend really does:

- ``fsdp2`` shards fp32 weights, gradients and both moments over data-parallel ranks (stage 3),
  each tensor along its first dimension, of experts what is left of it once tensor-parallel ranks
  have shared them out. While a step accumulates over micro-batches it does not
  sum gradients over ranks, so every rank holds them whole, in fp32.
- ``megatron`` holds whole weights in the precision of the computation and whole fp32 gradients in
  one padded buffer; moments, and fp32 weights where those are bfloat16, are shared by data-parallel
  ranks (stage 1). Frozen weights lie beside the buffer.

Counts of steps, a number per tensor, are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from evenkeel.recipes.memory_fit.layout import Layout
from evenkeel.recipes.memory_fit.weights import TEXT, Weight
from evenkeel.recipes.schema import Policy, Precision

FP32 = 4
MOMENTS = 2


@dataclass(frozen=True)
class States:
    """Bytes on one rank."""

    weights: int
    gradients: int
    """Once summed over data-parallel ranks."""
    moments: int
    main_weights: int = 0
    """fp32 copies of weights that are bfloat16."""
    accumulated_gradients: int = 0
    """While micro-batches add up."""
    gathered: int = 0
    """Weights outside the repeated layers, whole and in the precision of the computation, from
    the forward pass to the backward pass."""
    gathered_block: int = 0
    """The same of the largest repeated layer, while it runs."""
    gathered_all: int = 0
    """All weights whole, as generation holds them."""
    trained_shard: int = 0
    """Trained numbers of this rank, in bytes of fp32: what a step of the optimizer holds once
    more."""


def element_size(precision: Precision) -> int:
    """Bytes of a number in the forward pass; 8-bit recipes keep bfloat16 between products."""
    return FP32 if precision is Precision.FLOAT32 else 2


def with_updates(weights: Iterable[Weight], policy: Policy) -> Iterator[tuple[Weight, bool]]:
    """(weight, whether it is trained), low-rank updates among them."""
    lora, vision = policy.lora, policy.vision
    for weight in weights:
        if lora is not None:
            yield weight, False
            yield from ((update, True) for update in _updates(weight, policy))
        elif vision is None:
            yield weight, True
        elif weight.is_projector:
            yield weight, not vision.freeze_projector
        elif weight.is_vision:
            yield weight, not vision.freeze_vision_tower
        else:
            yield weight, not vision.freeze_language_model


def _updates(weight: Weight, policy: Policy) -> Iterator[Weight]:
    """Hu et al. 2021 (arXiv:2106.09685): A of (rank, in) and B of (out, rank)."""
    assert policy.lora is not None
    module, _, kind = weight.name.rpartition(".")
    is_target = module.rpartition(".")[2] in policy.lora.target_modules
    if kind == "weight" and len(weight.shape) == 2 and is_target:
        rank = policy.lora.rank
        yield Weight(f"{module}.lora_a", (rank, weight.shape[1]), block=weight.block)
        yield Weight(f"{module}.lora_b", (weight.shape[0], rank), block=weight.block)


def fsdp2_states(weights: Iterable[Weight], policy: Policy, layout: Layout) -> States:
    """What the torch backend's rank 0 holds, which has the largest share of each tensor.

    Args:
        weights: of the whole model, or of a pipeline's stage.
        policy: of the recipe.
        layout: of the ranks.
    """
    size = element_size(policy.precision)
    is_sharding = layout.dp > 1 or size != FP32
    shard = trained_shard = trained_whole = 0
    gathered: dict[str | None, int] = {}
    for weight, is_trained in with_updates(weights, policy):
        shape = list(weight.shape)
        if weight.split is not None:
            shape[weight.split] = -(-shape[weight.split] // layout.tp)
        elif weight.is_expert:
            shape[0] //= layout.ep
        whole = math.prod(shape)
        mine = -(-shape[0] // layout.dp) * math.prod(shape[1:])
        shard += mine
        gathered[weight.block] = gathered.get(weight.block, 0) + whole
        if is_trained:
            trained_shard += mine
            trained_whole += whole
    root, blocks = gathered.pop(None, 0), gathered.values()
    # a pipeline's schedule keeps weights whole from the first backward pass to the last
    kept = root if layout.pp == 1 else root + sum(blocks)
    return States(
        weights=FP32 * shard,
        gradients=FP32 * trained_shard,
        moments=MOMENTS * FP32 * trained_shard,
        accumulated_gradients=FP32 * trained_whole,
        gathered=size * kept if is_sharding else 0,
        gathered_block=size * max(blocks, default=0) if is_sharding else 0,
        gathered_all=size * (root + sum(blocks)) if is_sharding else 0,
        trained_shard=FP32 * trained_shard,
    )


def megatron_states(
    weights: Iterable[Weight], policy: Policy, layout: Layout, stage: int, layers: range
) -> States:
    """What a rank of one pipeline stage holds."""
    size = element_size(policy.precision)
    trained: list[Weight] = []
    frozen: list[Weight] = []
    for weight, is_trained in with_updates(weights, policy):
        (trained if is_trained else frozen).append(weight)
    kept = sum(map(sum, _stage_numels(frozen, layout, stage, layers)))
    dense, experts = _stage_numels(trained, layout, stage, layers)
    if layout.ep == 1:
        dense, experts = dense + experts, []
    whole = shard = 0
    for numels, split in (
        (dense, layout.optimizer_split),
        (experts, layout.expert_optimizer_split),
    ):
        if numels:
            buffer = _buffer_numel(numels, split)
            whole += buffer
            shard += min(buffer // split, sum(numels))
    return States(
        weights=size * (whole + kept),
        gradients=FP32 * whole,
        moments=MOMENTS * FP32 * shard,
        main_weights=FP32 * shard if size != FP32 else 0,
        accumulated_gradients=FP32 * whole,
        trained_shard=FP32 * shard,
    )


def megatron_frozen_bytes(
    weights: Iterable[Weight], policy: Policy, layout: Layout, stage: int, layers: range
) -> int:
    """Of a model that is never trained: its weights, without padding."""
    dense, experts = _stage_numels(list(weights), layout, stage, layers)
    return (sum(dense) + sum(experts)) * element_size(policy.precision)


def _stage_numels(
    weights: list[Weight], layout: Layout, stage: int, layers: range
) -> tuple[list[int], list[int]]:
    """Numbers of each dense tensor and of each tensor of an expert, as megatron-core has them:
    query, key and value in one, gate and up in one, experts one by one."""
    dense: dict[str, int] = {}
    experts: list[int] = []
    for weight in of_stage(weights, layout, stage, layers):
        if weight.is_unused:
            continue  # its towers end where the language model looks
        if weight.is_expert:
            of_one = weight.numel // weight.shape[0] // layout.etp
            experts += [of_one] * (weight.shape[0] // layout.ep)
            continue
        name = re.sub(r"\.(?:[qkv]_proj)\.", ".qkv.", weight.name)
        name = re.sub(r"\.(?:gate|up)_proj\.", ".fc1.", name)
        is_split = weight.split is not None or _is_split_here(weight)
        numel = weight.numel // layout.tp if is_split else weight.numel
        dense[name] = dense.get(name, 0) + numel
    return list(dense.values()), experts


def _is_split_here(weight: Weight) -> bool:
    """Whether megatron-core splits what the torch backend has whole on every rank."""
    *_, module, kind = weight.name.split(".")
    if weight.is_vision:
        return module in _BY_OUTPUT or (module in _BY_INPUT and kind == "weight")
    return "_a_proj" in module


_BY_OUTPUT = ("q_proj", "k_proj", "v_proj", "fc1", "linear_1")
_BY_INPUT = ("out_proj", "fc2", "linear_2")
"""Layers of CLIP's tower and of the projector behind it."""


def of_stage(weights: list[Weight], layout: Layout, stage: int, layers: range) -> Iterator[Weight]:
    """Those that a stage of a pipeline holds, with its ``layers``."""
    is_first, is_last = stage == 0, stage == layout.pp - 1
    is_tied = all(weight.name != "lm_head.weight" for weight in weights)
    for weight in weights:
        if weight.is_vision:
            is_here = is_first
        elif weight.block is not None:
            kind, _, number = weight.block.partition(".")
            is_here = kind == TEXT and int(number) in layers
        elif "embed_tokens" in weight.name:
            # the last stage has a copy of an embedding that is the output layer
            is_here = is_first or (is_last and is_tied)
        else:
            is_here = is_last
        if is_here:
            yield weight


def _buffer_numel(numels: list[int], split: int) -> int:
    """megatron-core 0.16 starts a tensor at a multiple of 64 and ends at one that divides."""
    end = 0
    for numel in numels:
        end = -(-end // 64) * 64 + numel
    multiple = math.lcm(split, 128)
    return -(-end // multiple) * multiple
