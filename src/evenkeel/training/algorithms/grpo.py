"""Group-relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): one step after another.

Each prompt gets a group of sampled answers; what is optimised of them is in ``grpo_objective``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evenkeel import atomic_file
from evenkeel.errors import InputError
from evenkeel.recipes.schema import GenerationBackend
from evenkeel.recipes.schema import Grpo as Settings
from evenkeel.training.algorithms.grpo_objective import (
    ADVANTAGES,
    GENERATED,
    PREVIOUS,
    REFERENCE,
    WEIGHTS,
    advantages,
    grpo_loss,
    token_weights,
)
from evenkeel.training.algorithms.interface import Ingredients, StepResult, TrainingAlgorithm
from evenkeel.training.algorithms.optimizer_step import OptimizerStep, count_tokens
from evenkeel.training.algorithms.rollouts import Rollout, Sampler, batches_of, with_token_values
from evenkeel.training.algorithms.warm_start import FrozenModel, warm_up
from evenkeel.training.backends.interface import ModelOutput
from evenkeel.training.data.batches import MicroBatch
from evenkeel.training.data.prompts import PromptStream, open_prompts
from evenkeel.training.rewards import weighted
from evenkeel.training.shared_prompts import shared_prompts

STATE = "grpo.json"
SCHEMA_VERSION = 1


class Grpo(TrainingAlgorithm):
    """Prompts, answers, loss and validation of group-relative policy optimisation."""

    def __init__(self, ingredients: Ingredients) -> None:
        recipe, tokenizer = ingredients.recipe, ingredients.tokenizer
        assert recipe.grpo is not None
        self._ingredients, self._settings = ingredients, recipe.grpo
        self._recipe, self._policy, self._backend = recipe, recipe.policy, ingredients.backend
        _check_batch_size(self._settings, self._policy.train_global_batch_size)
        self._optimize = OptimizerStep(recipe, self._backend)
        self._sampler = Sampler(ingredients, weighted(self._settings.rewards))
        prompts = open_prompts(recipe, tokenizer, "train")
        self._prompts = PromptStream(prompts, recipe.seed, recipe.data.shuffle)
        self._val = open_prompts(recipe, tokenizer, "val")
        generation = recipe.policy.generation
        self._has_engine = generation and generation.backend is GenerationBackend.VLLM
        self._position = 0
        self._reference: FrozenModel | None = None
        if self._settings.reference_policy_kl_penalty > 0:
            self._reference = FrozenModel(ingredients, recipe.policy)

    def begin(self) -> None:
        """See ``TrainingAlgorithm``: the reference is the policy after its warm start."""
        if self._policy.warm_start is not None:
            warm_up(self._ingredients, self._backend, self._policy.warm_start)
            if self._reference is not None:
                self._reference.copy(self._backend)

    def save(self, folder: Path) -> None:
        """See ``TrainingAlgorithm``: how far the prompts are used up, and the reference."""
        state = {"schema_version": SCHEMA_VERSION, "prompt_position": self._position}
        if self._ingredients.is_main:
            atomic_file.write_json(folder / STATE, state)
        if self._reference is not None:
            self._reference.save(folder)

    def load(self, folder: Path) -> None:
        """See ``TrainingAlgorithm``."""
        self._position = int(json.loads((folder / STATE).read_text())["prompt_position"])
        if self._reference is not None:
            self._reference.load(folder)

    def train_step(self, step: int) -> StepResult:
        """See ``TrainingAlgorithm``: answers are sampled once and trained in mini-batches."""
        first_position = self._position
        groups = self._groups(step)
        rollouts = [rollout for group in groups for rollout in group]
        batches = self._mini_batches(groups)
        totals: dict[str, float] = {}
        for _ in range(self._settings.num_inner_epochs):
            for batch in batches:
                loss = partial(
                    grpo_loss,
                    settings=self._settings,
                    temperature=self._sampler.sampling.temperature,
                )
                sums, metrics = self._optimize(step, batch, loss)
                for name, value in {**sums, "grad_norm": metrics["train/grad_norm"]}.items():
                    totals[name] = totals.get(name, 0.0) + value
        num_updates = len(batches) * self._settings.num_inner_epochs
        counts = count_tokens(self._backend, [micro for batch in batches for micro in batch])
        return StepResult(
            metrics={
                **{f"train/{name}": value / num_updates for name, value in totals.items()},
                "train/lr": metrics["train/lr"],
                "train/global_valid_toks": counts["trained"],
                "train/num_sampled_prompts": float(self._position - first_position),
                **_rollout_metrics(rollouts),
            },
            num_tokens=int(counts["tokens"]),
        )

    def validate(self) -> dict[str, float]:
        """Share of validation prompts whose greedy answer is right, its reward and its length."""
        size = self._settings.val_global_batch_size
        if not self._has_engine:  # an engine has a queue of its own
            num_ranks = self._backend.place.size
            size = self._recipe.val_samples_per_pass(num_ranks) * num_ranks
        rollouts: list[Rollout] = []
        for start in range(0, len(self._val), size):
            end = min(start + size, len(self._val))
            rollouts += self._sampler.greedy([self._val[index] for index in range(start, end)])
        return {
            "validation/accuracy": _mean([rollout.accuracy for rollout in rollouts]),
            "validation/reward": _mean([rollout.reward for rollout in rollouts]),
            "validation/avg_length": _mean([len(rollout.answer_ids) for rollout in rollouts]),
        }

    def _groups(self, step: int) -> list[list[Rollout]]:
        """The answers of the step, by prompt; moves on in the stream of prompts.

        With dynamic sampling, groups that teach something come first, and prompts are drawn until
        there are enough of them.
        """
        settings = self._settings
        wanted, size = settings.num_prompts_per_step, settings.num_generations_per_prompt
        telling: list[list[Rollout]] = []
        alike: list[list[Rollout]] = []
        for _ in range(settings.max_dynamic_sampling_rounds):
            prompts = self._prompts.take(self._position, wanted)
            self._position += wanted
            rollouts = self._sampler.sample(prompts, size, step)
            for start in range(0, len(rollouts), size):
                group = rollouts[start : start + size]
                differs = len({rollout.reward for rollout in group}) > 1
                (telling if differs or not settings.use_dynamic_sampling else alike).append(group)
            if len(telling) >= wanted:
                break
        return (telling + alike)[:wanted]

    def _mini_batches(self, groups: Sequence[Sequence[Rollout]]) -> list[list[MicroBatch]]:
        """This rank's micro-batches of every optimizer step, with all that the loss needs."""
        rewards = torch.tensor([[rollout.reward for rollout in group] for group in groups])
        of_rollout = advantages(rewards.double(), self._settings).flatten().tolist()
        rollouts = [rollout for group in groups for rollout in group]
        if self._settings.overlong_filtering:
            rollouts = [
                r if r.is_finished else replace(r, answer_ids=[], log_probs=[]) for r in rollouts
            ]
        policy, place = self._policy, self._backend.place
        dynamic, size = policy.dynamic_batching, policy.train_global_batch_size
        layout: dict[str, Any] = {
            "global_batch_size": size,
            "micro_batch_size": policy.train_micro_batch_size,
            "dp_rank": place.rank,
            "dp_size": place.size,
            "max_length": policy.max_total_sequence_length,
            "pad_id": self._ingredients.pad_id,
            "pack": policy.sequence_packing.enabled,
            "max_micro_batch_tokens": dynamic.train_micro_batch_tokens if dynamic.enabled else None,
            "blank": self._prompts.blank,
        }
        source = batches_of(rollouts, layout)
        lengths = [len(rollout.answer_ids) for rollout in rollouts]
        values = {
            GENERATED: [rollout.log_probs for rollout in rollouts],
            ADVANTAGES: [[a] * n for a, n in zip(of_rollout, lengths, strict=True)],
            WEIGHTS: token_weights(lengths, size, self._settings.token_level_loss),
        }
        batches = [
            [_sharing(with_token_values(micro, values)) for micro in source.global_batch(number)]
            for number in range(1, len(rollouts) // size + 1)
        ]
        read = partial(_read, temperature=self._sampler.sampling.temperature)
        if len(batches) * self._settings.num_inner_epochs > 1:
            batches = [
                _with_read(batch, self._backend.read(batch, read), PREVIOUS) for batch in batches
            ]
        if self._reference is not None:
            batches = [
                _with_read(batch, self._reference.read(batch, read), REFERENCE) for batch in batches
            ]
        return batches


def _sharing(batch: MicroBatch) -> MicroBatch:
    """With the answers to a prompt told to share it, where rows hold one answer each."""
    if batch.segment_ids is not None or batch.images:
        return batch
    shared = shared_prompts(batch.input_ids, batch.attention_mask, batch.labels)
    return replace(batch, shared=shared)


def _read(output: ModelOutput, batch: MicroBatch, temperature: float) -> dict[str, Tensor]:
    return {"log_probs": output.token_log_probs(batch.labels, temperature)}


def _with_read(
    batch: Sequence[MicroBatch], read: Sequence[dict[str, Tensor]], name: str
) -> list[MicroBatch]:
    return [
        replace(micro, extras={**micro.extras, name: found["log_probs"]})
        for micro, found in zip(batch, read, strict=True)
    ]


def _rollout_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    return {
        "train/reward": _mean([rollout.reward for rollout in rollouts]),
        "train/accuracy": _mean([rollout.accuracy for rollout in rollouts]),
        "train/mean_gen_tokens_per_sample": _mean([len(r.answer_ids) for r in rollouts]),
        "train/mean_prompt_length": _mean([len(r.prompt_ids) for r in rollouts]),
        "train/truncation_rate": _mean([not rollout.is_finished for rollout in rollouts]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _check_batch_size(settings: Settings, batch_size: int) -> None:
    answers = settings.num_prompts_per_step * settings.num_generations_per_prompt
    if answers % batch_size:
        raise InputError(
            f"policy.train_global_batch_size is {batch_size}, which does not divide the {answers} "
            "answers of a step (grpo.num_prompts_per_step x grpo.num_generations_per_prompt)",
            fix=f"set policy.train_global_batch_size={answers}, or a divisor of it",
        )
    if settings.max_rollout_turns > 1:
        raise InputError(
            f"grpo.max_rollout_turns is {settings.max_rollout_turns}, and answers have one turn in "
            "this version",
            fix="set grpo.max_rollout_turns=1",
        )


def build(ingredients: Ingredients) -> Grpo:
    """The algorithm of a recipe."""
    return Grpo(ingredients)
