"""One rank of a recipe: what it holds all the time, and what several phases have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from evenkeel.recipes.memory_fit import states
from evenkeel.recipes.memory_fit.activations import FP32, Pass
from evenkeel.recipes.memory_fit.architecture import Model
from evenkeel.recipes.memory_fit.cards import GIB
from evenkeel.recipes.memory_fit.layout import Layout
from evenkeel.recipes.memory_fit.states import States
from evenkeel.recipes.memory_fit.weights import Weight, weights_of
from evenkeel.recipes.schema import Algorithm, Backend, GenerationBackend, Recipe

Parts = dict[str, float]
"""Bytes by what they are for."""

CUDA_CONTEXT = 1 * GIB
"""Allowance: driver context, kernels, workspaces of cuBLAS."""
NCCL = 1 * GIB
"""Allowance: buffers of the communicators, where more than one rank trains."""
VLLM_ASLEEP = 1 * GIB
"""Allowance: what an engine keeps while the policy trains."""


@dataclass(frozen=True)
class Phase:
    """One time of a step."""

    name: str
    parts: Parts

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Rank:
    """One pipeline stage's rank; the others of the stage hold the same or less."""

    recipe: Recipe
    model: Model
    layout: Layout
    stage: int
    teacher: Model | None
    card_memory: int

    @cached_property
    def layers(self) -> range:
        """Of this stage."""
        return self.layout.stage_layers(self.model.text.num_layers)[self.stage]

    @property
    def is_last(self) -> bool:
        """Whether it has the output layer."""
        return self.stage == self.layout.pp - 1

    @cached_property
    def states(self) -> States:
        """Of the model in training."""
        return self._states(list(weights_of(self.model)))

    def _states(self, weights: list[Weight]) -> States:
        policy = self.recipe.policy
        if self.layout.backend is Backend.FSDP2:
            if self.layout.pp > 1:
                weights = list(states.of_stage(weights, self.layout, self.stage, self.layers))
            return states.fsdp2_states(weights, policy, self.layout)
        return states.megatron_states(weights, policy, self.layout, self.stage, self.layers)

    @cached_property
    def frozen(self) -> Parts:
        """Weights of a reference policy or a teacher."""
        recipe = self.recipe
        grpo, dpo = recipe.grpo, recipe.algorithm is Algorithm.DPO
        kept = recipe.algorithm is Algorithm.GRPO and grpo is not None
        if dpo or (kept and grpo is not None and grpo.reference_policy_kl_penalty > 0):
            return {"reference": self._frozen_bytes(self.model)}
        if self.teacher is not None:
            return {"teacher": self._frozen_bytes(self.teacher)}
        return {}

    def _frozen_bytes(self, model: Model) -> int:
        weights = list(weights_of(model))
        if self.layout.backend is Backend.FSDP2:
            return states.fsdp2_states(weights, self.recipe.policy, self.layout).weights
        layers = self.layout.stage_layers(model.text.num_layers)[self.stage]
        return states.megatron_frozen_bytes(
            weights, self.recipe.policy, self.layout, self.stage, layers
        )

    @property
    def optimizer(self) -> float:
        """Bytes of moments and main weights."""
        return self.states.moments + self.states.main_weights

    @property
    def rows(self) -> int:
        """Of a training micro-batch."""
        return self.recipe.policy.samples_per_pass * self.rows_per_sample

    @property
    def val_rows(self) -> int:
        """Of one validation pass."""
        return self.recipe.val_samples_per_pass(self.layout.dp) * self.rows_per_sample

    @property
    def rows_per_sample(self) -> int:
        """``dpo`` counts pairs."""
        return 2 if self.recipe.algorithm is Algorithm.DPO else 1

    @property
    def num_micro_batches(self) -> int:
        """Of one optimizer step on this rank."""
        samples = self.recipe.policy.train_global_batch_size * self.rows_per_sample
        # the torch backend fills its schedule up to one for each stage
        least = self.layout.pp if self.layout.backend is Backend.FSDP2 else 1
        return max(least, math.ceil(samples / (self.layout.dp * self.rows)))

    def run(self, rows: int) -> Pass:
        """A forward pass of ``rows`` of the greatest length."""
        policy, text = self.recipe.policy, self.model.text
        seq, window = policy.max_total_sequence_length, text.sliding_window
        sees_both_ways = self.model.vision is not None and self.model.vision.model_type == "gemma3"
        frozen = policy.vision is not None and policy.vision.freeze_language_model
        options = {"dispatcher": policy.moe.token_dispatcher} if policy.moe is not None else {}
        return Pass(
            rows=rows,
            seq_length=seq,
            element_size=states.element_size(policy.precision),
            layout=self.layout,
            is_masked=policy.sequence_packing.enabled
            or (window is not None and seq > window)
            or (sees_both_ways and policy.vision is not None),
            lora_rank=policy.lora.rank if policy.lora else 0,
            is_frozen=policy.lora is not None or frozen,
            **options,
        )

    def patches(self, run: Pass) -> float:
        """Of the images of a pass; 0 where they are not seen on this stage."""
        tower, vision = self.model.vision, self.recipe.policy.vision
        if tower is None or vision is None or self.stage > 0:
            return 0.0
        return run.rows * tower.patches(run.seq_length, vision.max_pixels)

    def static(self) -> Parts:
        """Held all the time, allowances among it."""
        many = self.layout.world_size > 1
        asleep = VLLM_ASLEEP if self.has_vllm else 0
        return {
            "weights": self.states.weights,
            "optimizer": self.optimizer,
            **self.frozen,
            "overhead": CUDA_CONTEXT + (NCCL if many else 0) + asleep,
        }

    @property
    def has_vllm(self) -> bool:
        """Whether an engine shares the card."""
        generation = self.recipe.policy.generation
        return (
            self.generates
            and generation is not None
            and generation.backend is GenerationBackend.VLLM
            and generation.colocated.enabled
        )

    @property
    def generates(self) -> bool:
        """Whether the algorithm samples answers."""
        distillation = self.recipe.distillation
        on_policy = distillation is not None and distillation.on_policy
        return self.recipe.algorithm is Algorithm.GRPO or (
            self.recipe.algorithm is Algorithm.DISTILLATION and on_policy
        )


def logits_bytes(rank: Rank, run: Pass, per_logit: float) -> float:
    """Of one micro-batch: whole on every rank with fsdp2, by vocabulary with megatron."""
    if not rank.is_last:
        return 0.0
    vocabulary: float = rank.model.text.vocab_size
    if run.on_megatron:
        vocabulary /= rank.layout.tp
    return run.tokens * vocabulary * per_logit


def gradient_buffers(rank: Rank) -> Mapping[str, float]:
    """megatron-core keeps them; torch gives gradients back after each step."""
    held = rank.layout.backend is Backend.MEGATRON
    return {"gradients": float(rank.states.gradients) if held else 0.0}


def forward_only(rank: Rank, run: Pass) -> float:
    """Of the layer that holds the most, where nothing is kept for a backward pass."""
    text, w, layout = rank.model.text, run.element_size, rank.layout
    h = w * text.hidden_size
    wide = w * text.ffn_size / layout.tp
    if text.experts is not None:
        routed = text.experts.per_token * run.routed_share
        inside = 5 * w * text.experts.ffn_size / run.expert_split + 2 * h
        wide = max(wide, routed * inside / 4)
    if run.on_megatron:
        # gate and up in one, the activation and the product; a schedule holds what stages pass on
        held = 7 if layout.pp > 1 else 6
        # with images, the text's embeddings and the features beside what was made of them
        patches = rank.patches(run)
        seen = (run.tokens + patches) * h if patches else 0.0
        return seen + run.tokens * (held * h / layout.sequence_split + 4 * wide)
    parts = 5 if run.lora_rank else 3  # an update stands beside what it is added to
    return run.tokens * (2 * h + max(2 * FP32 * text.hidden_size + h, h + parts * wide))
