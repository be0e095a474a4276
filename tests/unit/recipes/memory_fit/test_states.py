from __future__ import annotations

from dataclasses import replace

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes.memory_fit.layout import Layout, layout_of
from evenkeel.recipes.memory_fit.states import fsdp2_states, megatron_states, of_stage
from evenkeel.recipes.memory_fit.weights import Weight
from evenkeel.recipes.schema import (
    Backend,
    Cluster,
    Lora,
    Parallel,
    Policy,
    Precision,
    Recipe,
    Vision,
)

WEIGHTS = [
    Weight("model.embed_tokens.weight", (128, 64), split=0),
    Weight("model.layers.0.self_attn.q_proj.weight", (64, 64), 0, "text.0"),
    Weight("model.layers.0.self_attn.o_proj.weight", (64, 64), 1, "text.0"),
    Weight("model.layers.0.input_layernorm.weight", (64,), block="text.0"),
    Weight("model.layers.0.mlp.experts.down_proj", (4, 64, 64), None, "text.0", is_expert=True),
]
BF16, FP32 = Policy(precision=Precision.BFLOAT16), Policy(precision=Precision.FLOAT32)


def layout(backend: Backend, world_size: int, **sizes: int) -> Layout:
    plain = {"tp": 1, "pp": 1, "cp": 1, "ep": 1, "etp": 1, "vpp": 1}
    return Layout(backend, world_size, **(plain | sizes), sequence_parallel=False)


def test_fsdp2_shares_everything_in_fp32() -> None:
    states = fsdp2_states(WEIGHTS[:4], BF16, layout(Backend.FSDP2, 4, tp=2))
    # of embedding, query and output projection a quarter, of the norm half
    share = 128 * 64 // 4 + 2 * 64 * 64 // 4 + 64 // 2
    assert states.weights == states.gradients == 4 * share
    assert states.moments == 8 * share
    # micro-batches add up without communication: whole but for tensor parallelism
    assert states.accumulated_gradients == 4 * (128 * 64 // 2 + 64 * 64 + 64)
    assert states.gathered == 2 * 128 * 64 // 2
    assert states.gathered_block == 2 * (64 * 64 + 64)


def test_fsdp2_shares_experts_whole() -> None:
    shared = layout(Backend.FSDP2, 4, tp=2, ep=2)
    with_experts = fsdp2_states(WEIGHTS, FP32, shared)
    without = fsdp2_states(WEIGHTS[:4], FP32, shared)
    # of four experts each of two ranks has two, of which data parallelism makes one
    assert with_experts.weights - without.weights == 4 * 64 * 64
    assert with_experts.accumulated_gradients - without.accumulated_gradients == 4 * 2 * 64 * 64


def test_one_rank_in_fp32_gathers_nothing() -> None:
    states = fsdp2_states(WEIGHTS, FP32, layout(Backend.FSDP2, 1))
    assert (states.gathered, states.gathered_block) == (0, 0)
    assert fsdp2_states(WEIGHTS, BF16, layout(Backend.FSDP2, 1)).gathered > 0


def test_a_first_dimension_that_does_not_divide_is_rounded_up() -> None:
    states = fsdp2_states([Weight("w", (5, 10))], FP32, layout(Backend.FSDP2, 2))
    assert states.weights == 4 * 3 * 10


def test_low_rank_updates_alone_have_gradients_and_moments() -> None:
    policy = replace(BF16, lora=Lora(rank=2, target_modules=["q_proj"]))
    states = fsdp2_states(WEIGHTS[:4], policy, layout(Backend.FSDP2, 1))
    updates = 2 * 64 + 64 * 2
    assert states.gradients == 4 * updates
    assert states.moments == 8 * updates
    assert states.weights == 4 * (128 * 64 + 2 * 64 * 64 + 64 + updates)


def test_fsdp2_holds_a_stage_alone() -> None:
    weights = [
        WEIGHTS[0],
        Weight("model.layers.0.self_attn.q_proj.weight", (64, 64), 0, "text.0"),
        Weight("model.layers.1.self_attn.q_proj.weight", (64, 64), 0, "text.1"),
        Weight("model.norm.weight", (64,)),
        Weight("lm_head.weight", (128, 64), split=0),
    ]
    stages = layout(Backend.FSDP2, 4, pp=2)
    first = fsdp2_states(of_stage(weights, stages, 0, range(1)), BF16, stages)
    last = fsdp2_states(of_stage(weights, stages, 1, range(1, 2)), BF16, stages)
    assert first.weights == 4 * (128 * 64 + 64 * 64) // 2
    assert last.weights == 4 * (128 * 64 + 64 * 64 + 64) // 2
    # whole from the first backward pass to the last
    assert first.gathered == 2 * (128 * 64 + 64 * 64)
    tied = fsdp2_states(of_stage(weights[:4], stages, 1, range(1, 2)), BF16, stages)
    assert tied.weights == last.weights


def test_megatron_shares_the_optimizer_alone() -> None:
    whole = layout(Backend.MEGATRON, 2)
    dense = 128 * 64 + 2 * 64 * 64 + 64
    # the buffer ends at a multiple of 128
    padded = -(-dense // 128) * 128
    states = megatron_states(WEIGHTS[:4], BF16, whole, 0, range(1))
    assert states.weights == 2 * padded
    assert states.gradients == 4 * padded
    assert states.moments == 8 * padded // 2
    assert states.main_weights == 4 * padded // 2
    assert megatron_states(WEIGHTS[:4], FP32, whole, 0, range(1)).main_weights == 0


def test_megatron_splits_a_tower_on_the_first_stage_and_keeps_frozen_weights_out_of_buffers() -> (
    None
):
    tower, projector = "model.vision_tower.encoder.layers.0", "model.multi_modal_projector"
    weights = [
        Weight(f"{tower}.self_attn.q_proj.bias", (64,), block="vision.0"),
        Weight(f"{tower}.self_attn.out_proj.weight", (64, 64), block="vision.0"),
        Weight(f"{tower}.self_attn.out_proj.bias", (64,), block="vision.0"),
        Weight("model.vision_tower.post_layernorm.bias", (64,), is_unused=True),
        Weight(f"{projector}.linear_1.weight", (256, 64)),
        Weight("model.language_model.norm.weight", (64,)),
    ]
    stages = layout(Backend.MEGATRON, 4, tp=2, pp=2)
    policy = replace(FP32, vision=Vision(freeze_vision_tower=True))
    first = megatron_states(weights, policy, stages, 0, range(1))
    last = megatron_states(weights, policy, stages, 1, range(1, 2))
    trained, frozen = 256 * 64 // 2, 64 // 2 + 64 * 64 // 2 + 64
    assert (first.weights, first.gradients) == (4 * (trained + frozen), 4 * trained)
    assert first.moments == 8 * trained
    assert last.weights == last.gradients == 4 * 128  # a buffer's multiple


def test_experts_are_shared_over_their_own_ranks() -> None:
    spread = layout(Backend.MEGATRON, 4, ep=2)
    one_expert = 64 * 64
    with_experts = megatron_states(WEIGHTS, BF16, spread, 0, range(1))
    without = megatron_states(WEIGHTS[:4], BF16, spread, 0, range(1))
    assert with_experts.weights - without.weights == 2 * 2 * one_expert
    # two of four ranks have the same experts
    assert with_experts.moments - without.moments == 8 * 2 * one_expert // 2


def test_pipeline_stages_have_their_own_layers_and_ends() -> None:
    pipeline = layout(Backend.MEGATRON, 2, pp=2)
    weights = [*WEIGHTS[:4], Weight("model.norm.weight", (64,))]
    first = megatron_states(weights, FP32, pipeline, 0, range(1))
    last = megatron_states(weights, FP32, pipeline, 1, range(1, 1))
    assert first.weights == 4 * (128 * 64 + 2 * 64 * 64 + 64 + 64)  # 64 of padding
    assert last.weights == 4 * (128 * 64 + 64 + 64)  # the tied embedding's copy, the norm, padding


def test_layers_of_stages() -> None:
    uneven = replace(layout(Backend.MEGATRON, 4, pp=4), first_stage_layers=6)
    assert [len(stage) for stage in uneven.stage_layers(27)] == [6, 7, 7, 7]
    with pytest.raises(InputError, match="27 layers do not divide over 4"):
        layout(Backend.MEGATRON, 4, pp=4).stage_layers(27)


def test_micro_batches_in_flight() -> None:
    four = layout(Backend.MEGATRON, 4, pp=4)
    assert [four.in_flight(stage, 8) for stage in range(4)] == [4, 3, 2, 1]
    assert four.in_flight(0, 2) == 2
    interleaved = replace(four, vpp=2)
    assert interleaved.in_flight(0, 8) == (2 * 3 + 4 + 1) / 2


def test_torch_has_experts_where_megatron_would_split_them() -> None:
    """Where nothing is said of the ranks within an expert."""
    parallel = Parallel(tensor_parallel_size=2, expert_parallel_size=2)
    policy, four = Policy(parallel=parallel), Cluster(gpus_per_node=4)
    assert layout_of(Recipe(policy=policy, cluster=four)).etp == 1
    on_megatron = replace(policy, backend=Backend.MEGATRON)
    assert layout_of(Recipe(policy=on_megatron, cluster=four)).etp == 2


def test_sizes_must_divide_the_ranks() -> None:
    recipe = Recipe(
        policy=Policy(parallel=Parallel(tensor_parallel_size=3)), cluster=Cluster(gpus_per_node=8)
    )
    with pytest.raises(InputError, match="tensor x pipeline x context = 3 ranks"):
        layout_of(recipe)
