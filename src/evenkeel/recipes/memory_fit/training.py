"""What is held at the same time while a step trains, updates the weights, and validates."""

from __future__ import annotations

from evenkeel.recipes.memory_fit import activations
from evenkeel.recipes.memory_fit.activations import FP32, Pass
from evenkeel.recipes.memory_fit.rank import (
    Parts,
    Phase,
    Rank,
    forward_only,
    gradient_buffers,
    logits_bytes,
)
from evenkeel.recipes.schema import Algorithm, Backend

LOGITS_IN_LOSS = 3 * FP32
"""Bytes a logit in the backward pass of the loss: log-softmax, its gradient and that of its input,
in fp32. (In the forward pass: the logit itself, its fp32 copy and the log-softmax.)"""
CHUNK_IN_LOSS = 5 * FP32
"""The same of logits in chunks, which are computed again: the logit and its copies as well."""


def train(rank: Rank) -> Phase:
    """Forward and backward pass, at the larger of two times: when all layers have run and the loss
    is computed, and when the last layer runs backward, logits gone and its gradients there."""
    s, run = rank.states, rank.run(rank.rows)
    kept = _kept_by_layers(rank, run)
    head = activations.head_bytes(rank.model.text, run) if rank.is_last else 0.0
    accumulates = rank.layout.backend is Backend.MEGATRON or rank.num_micro_batches > 1
    gradients = float(s.accumulated_gradients if accumulates else 0)
    # it is read before the step, for all of its micro-batches
    from_teacher = rank.num_micro_batches * _from_teacher(rank, run)
    at_loss: Parts = {
        "gradients": gradients,
        "gathered": s.gathered,
        "activations": kept + head,
        "logits": _logits_in_training(rank, run) + from_teacher,
    }
    reduced = s.gathered_block * FP32 / run.element_size
    of_head = run.element_size * rank.model.text.vocab_size * rank.model.text.hidden_size
    head_gradient = 0.0 if run.is_frozen or not rank.is_last else of_head / rank.layout.tp
    in_layer: Parts = {
        "gradients": gradients + head_gradient,
        "gathered": s.gathered + 3 * s.gathered_block + reduced,
        "activations": kept + _in_layer(rank, run),
        "logits": from_teacher,
    }
    at_end: Parts = {
        "gradients": s.accumulated_gradients if accumulates else s.gradients,
        "gathered": s.gathered + 3 * s.gathered_block + reduced,
        "activations": _in_layer(rank, run),
        "logits": 0.0,
    }
    times = [Phase("train", {**rank.static(), **parts}) for parts in (at_loss, in_layer, at_end)]
    return max(times, key=lambda phase: phase.total)


def _kept_by_layers(rank: Rank, run: Pass) -> float:
    """Of all layers of this stage and all micro-batches in flight."""
    text, policy = rank.model.text, rank.recipe.policy
    if policy.activation_checkpointing:
        of_layers = len(rank.layers) * activations.checkpoint_bytes(text, run)
    else:
        of_layers = sum(activations.layer_bytes(text, layer, run) for layer in rank.layers)
    if rank.layout.pp > 1:
        # the schedule holds what a stage was given and what it passes on
        of_layers += 2 * activations.checkpoint_bytes(text, run)
    in_flight = rank.layout.in_flight(rank.stage, rank.num_micro_batches)
    return (of_layers + _kept_by_tower(rank, run)) * in_flight


def _kept_by_tower(rank: Rank, run: Pass) -> float:
    """Of one micro-batch, tower and projector."""
    tower, policy = rank.model.vision, rank.recipe.policy
    if tower is None or policy.vision is None or rank.stage > 0:
        return 0.0
    patches = rank.patches(run)
    frozen = policy.vision.freeze_projector
    kept = 0.0 if frozen else activations.projector_bytes(tower, patches, run)
    if policy.vision.freeze_vision_tower and policy.lora is None:
        return kept
    num_layers = tower.num_used_layers if run.on_megatron else tower.num_layers
    if policy.activation_checkpointing:
        return kept + patches * run.element_size * tower.hidden_size * num_layers
    return kept + num_layers * activations.vision_layer_bytes(tower, patches, run)


def _in_layer(rank: Rank, run: Pass) -> float:
    """While one layer runs backward: its gradients, and its activations where they are computed
    again."""
    text, w = rank.model.text, run.element_size
    width = text.ffn_size / rank.layout.tp
    if text.experts is not None:
        split = rank.layout.tp if run.on_megatron else 1
        routed = text.experts.ffn_size * text.experts.per_token / split
        width = max(width if len(text.experts.sparse_layers) < text.num_layers else 0, routed)
    # of the products in the feed-forward part (on megatron, of gate and up in one), and of the
    # residual on both sides of it
    parts = 2 if run.on_megatron else 1
    gradients = parts * w * width + 2 * w * text.hidden_size
    if not rank.recipe.policy.activation_checkpointing:
        return run.tokens * gradients
    largest = max(activations.layer_bytes(text, layer, run) for layer in rank.layers)
    return run.tokens * gradients + largest


def _logits_in_training(rank: Rank, run: Pass) -> float:
    chunk = rank.recipe.policy.logits_chunk_size
    if chunk is None or not rank.is_last:
        # torch's schedule keeps what the last stage gave until its backward pass is through
        kept = run.element_size if _in_torch_stages(rank) else 0
        return logits_bytes(rank, run, LOGITS_IN_LOSS + kept)
    text = rank.model.text
    positions = min(chunk, run.tokens)
    # the gradient of the output layer is added up chunk by chunk, in two copies
    weights = 2 * run.element_size * text.vocab_size * text.hidden_size / rank.layout.tp
    rows = run.tokens * run.element_size * text.hidden_size
    return positions * text.vocab_size * CHUNK_IN_LOSS + rows + (0 if run.is_frozen else weights)


def _in_torch_stages(rank: Rank) -> bool:
    return rank.layout.pp > 1 and rank.layout.backend is Backend.FSDP2


def _from_teacher(rank: Rank, run: Pass) -> float:
    """What the loss of one micro-batch needs of the teacher."""
    settings = rank.recipe.distillation
    if rank.teacher is None or settings is None or not rank.is_last:
        return 0.0
    if settings.num_top_logits is None:
        return run.tokens * rank.model.text.vocab_size * FP32
    return run.tokens * settings.num_top_logits * (FP32 + 8)  # and which tokens they are


def update(rank: Rank) -> Phase:
    """The optimizer's step: moments are combined in a tensor of the size of the weights."""
    s = rank.states
    parts: Parts = {"gradients": s.gradients, "activations": s.trained_shard}
    return Phase("update", {**rank.static(), **parts})


def validate(rank: Rank) -> Phase | None:
    """One forward pass of so many rows as validation takes at once."""
    if rank.recipe.algorithm is Algorithm.GRPO:
        return None  # it generates
    run = rank.run(rank.val_rows)
    chunk = rank.recipe.policy.logits_chunk_size
    w, tp = run.element_size, rank.layout.tp
    # the logit, its copy in fp32 where it is none or under a temperature, and the log-softmax
    settings = rank.recipe.distillation
    copies = settings is not None and settings.temperature != 1
    per_logit: float = (2 + copies) * FP32 if w == FP32 else w + 2 * FP32
    in_schedule = 2 * w * run.tokens * rank.model.text.hidden_size
    # the schedule holds what a stage was given and what it passes on
    hidden = in_schedule if run.on_megatron or _in_torch_stages(rank) else 0.0
    if run.on_megatron:
        per_logit = 2 * FP32  # in fp32 from the start, and the quotient by the temperature
    elif tp > 1:  # gathered: all parts, all of them in one, and this rank's part
        per_logit = max(per_logit, w * (2 + 1 / tp))
    if chunk is None:
        logits = logits_bytes(rank, run, per_logit)
    else:
        logits = min(chunk, run.tokens) * rank.model.text.vocab_size * per_logit
    before: Parts = {**rank.static(), **gradient_buffers(rank)}
    from_teacher = _from_teacher(rank, run)
    in_layer = {
        "gathered": rank.states.gathered + 3 * rank.states.gathered_block,
        "activations": forward_only(rank, run) + (hidden if _in_torch_stages(rank) else 0.0),
        "logits": from_teacher,
    }
    of_loss = {
        "gathered": rank.states.gathered,
        "activations": hidden,
        "logits": logits + from_teacher,
    }
    times = [Phase("validate", {**before, **parts}) for parts in (in_layer, of_loss)]
    return max(times, key=lambda phase: phase.total)
