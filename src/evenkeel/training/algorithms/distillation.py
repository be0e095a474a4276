"""Distillation: a student learns a teacher's distribution over tokens (Hinton et al. 2015,
arXiv:1503.02531).

With the student p and the teacher q, both at the temperature T, a token's loss is

    forward   KL(q || p) = sum of q (log q - log p)     covers all that the teacher would say
    reverse   KL(p || q) = sum of p (log p - log q)     says only what the teacher would say
    mixed     w forward + (1 - w) reverse

times T squared (their section 2: the gradient keeps its size), averaged over the tokens of the
global batch. With the teacher's k likeliest tokens only, q and p are renormalised over these.

On-policy (Agarwal et al. 2023, arXiv:2306.13649), the tokens are the student's own answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Distillation as Settings
from evenkeel.recipes.schema import KlType, Policy, Recipe
from evenkeel.recipes.support import check_teacher
from evenkeel.training import models
from evenkeel.training.algorithms.interface import Ingredients, StepResult, TrainingAlgorithm
from evenkeel.training.algorithms.optimizer_step import (
    OptimizerStep,
    count_tokens,
    train_batches,
    val_batches,
)
from evenkeel.training.algorithms.rollouts import Sampler
from evenkeel.training.algorithms.sft import sft_measure
from evenkeel.training.algorithms.warm_start import FrozenModel, warm_up
from evenkeel.training.backends.interface import IGNORED_LABEL, ModelOutput, Sums, add_sums
from evenkeel.training.data.batches import BatchSource, MicroBatch, open_dataset
from evenkeel.training.data.prompts import PromptStream, open_prompts

# of a micro-batch's extras
TEACHER = "teacher_log_probs"
"""(batch, seq, k or vocabulary)."""
TOKENS = "teacher_tokens"
"""(batch, seq, k): which tokens these are; absent: all, in order."""


def teacher_reader(
    output: ModelOutput, batch: MicroBatch, temperature: float, num_top: int | None
) -> dict[str, Tensor]:
    """What the loss needs of the teacher."""
    log_probs = output.log_probs(temperature)  # shape: (batch, seq, vocabulary)
    if num_top is None:
        return {TEACHER: log_probs}
    top, tokens = log_probs.topk(min(num_top, log_probs.shape[-1]), dim=-1)
    return {TEACHER: top.log_softmax(dim=-1), TOKENS: tokens}


def divergences(student: Tensor, teacher: Tensor, settings: Settings) -> Tensor:
    """(batch, seq): the divergence at each position.

    Args:
        student: (batch, seq, n) log probabilities that add up to 1.
        teacher: the same of the teacher.
        settings: which divergence.
    """
    forward = (teacher.exp() * (teacher - student)).sum(dim=-1)
    if settings.kl_type is KlType.FORWARD:
        return forward
    reverse = (student.exp() * (student - teacher)).sum(dim=-1)
    if settings.kl_type is KlType.REVERSE:
        return reverse
    return settings.mixed_kl_weight * forward + (1 - settings.mixed_kl_weight) * reverse


def distillation_loss(
    output: ModelOutput, batch: MicroBatch, settings: Settings, num_tokens: float
) -> tuple[Tensor, Sums]:
    """This micro-batch's share of the mean over the ``num_tokens`` of the global batch."""
    student = output.log_probs(settings.temperature)
    if TOKENS in batch.extras:
        student = student.gather(-1, batch.extras[TOKENS]).log_softmax(dim=-1)
    trained = batch.labels != IGNORED_LABEL  # shape: (batch, seq)
    per_token = divergences(student, batch.extras[TEACHER], settings)
    divergence = per_token[trained].sum() * settings.temperature**2 / num_tokens
    loss, reported = divergence, {"kl_penalty": divergence.detach()}
    if settings.sft_loss_weight > 0:
        supervised = output.sum_of_token_losses(batch.labels) / num_tokens
        loss = loss + settings.sft_loss_weight * supervised
        reported["sft_loss"] = supervised.detach()
    return loss, {"loss": loss.detach(), **reported}


def distillation_measure(output: ModelOutput, batch: MicroBatch, settings: Settings) -> Sums:
    """Sums over a validation batch."""
    reported = distillation_loss(output, batch, settings, num_tokens=1.0)[1]
    answers = sft_measure(output, batch)
    return {
        "divergence": reported["kl_penalty"].double(),
        **{name: answers[name] for name in ("tokens", "exact", "responses")},
    }


class Distillation(TrainingAlgorithm):
    """Data, teacher, loss and validation of distillation."""

    def __init__(self, ingredients: Ingredients) -> None:
        recipe, tokenizer = ingredients.recipe, ingredients.tokenizer
        assert recipe.distillation is not None
        self._ingredients, self._settings = ingredients, recipe.distillation
        self._recipe, self._backend = recipe, ingredients.backend
        self._optimize = OptimizerStep(recipe, self._backend)
        self._teacher_policy = teacher_policy(recipe)
        check_vocabularies(recipe.policy, self._teacher_policy)
        self._teacher = FrozenModel(ingredients, self._teacher_policy)
        place, pad_id = self._backend.place, ingredients.pad_id
        if self._settings.on_policy:
            prompts = open_prompts(recipe, tokenizer, "train")
            self._prompts = PromptStream(prompts, recipe.seed, recipe.data.shuffle)
            self._sampler = Sampler(ingredients, reward=None)
        else:
            train = open_dataset(recipe, tokenizer, "train")
            self._batches: BatchSource = train_batches(recipe, place, train, pad_id)
        val = open_dataset(recipe, tokenizer, "val")
        self._val = val_batches(recipe, place, val, pad_id)
        self._read = partial(
            teacher_reader,
            temperature=self._settings.temperature,
            num_top=self._settings.num_top_logits,
        )

    def begin(self) -> None:
        """See ``TrainingAlgorithm``: teacher and student may each get a warm start."""
        teacher_start = self._teacher_policy.warm_start
        if teacher_start is not None:
            self._teacher.warm_up(teacher_start)
        if self._recipe.policy.warm_start is not None:
            warm_up(self._ingredients, self._backend, self._recipe.policy.warm_start)

    def save(self, folder: Path) -> None:
        """See ``TrainingAlgorithm``."""
        self._teacher.save(folder)

    def load(self, folder: Path) -> None:
        """See ``TrainingAlgorithm``."""
        self._teacher.load(folder)

    def train_step(self, step: int) -> StepResult:
        """See ``TrainingAlgorithm``."""
        batches = self._global_batch(step)
        counts = count_tokens(self._backend, batches)
        loss = partial(
            distillation_loss, settings=self._settings, num_tokens=max(counts["trained"], 1.0)
        )
        sums, metrics = self._optimize(step, self._with_teacher(batches), loss)
        return StepResult(
            metrics={
                **{f"train/{name}": value for name, value in sums.items()},
                **metrics,
                "train/global_valid_toks": counts["trained"],
            },
            num_tokens=int(counts["tokens"]),
        )

    def validate(self) -> dict[str, float]:
        """Mean divergence per token of the validation answers, and the share of answers that the
        student would write (see ``Sft.validate``)."""
        measure = partial(distillation_measure, settings=self._settings)
        total: dict[str, float] = {}
        for batches in self._val.one_pass():
            sums: Sums = {}
            for batch in batches:  # one by one: what the teacher says may be as large as logits
                add_sums(sums, self._backend.forward(self._with_teacher([batch]), measure))
            for name, value in self._backend.reduce_sums(sums).items():
                total[name] = total.get(name, 0.0) + value
        return {
            "validation/loss": total["divergence"] / max(total["tokens"], 1.0),
            "validation/accuracy": total["exact"] / max(total["responses"], 1.0),
        }

    def _global_batch(self, step: int) -> list[MicroBatch]:
        if not self._settings.on_policy:
            return self._batches.global_batch(step)
        size = self._recipe.policy.train_global_batch_size
        rollouts = self._sampler.sample(self._prompts.take((step - 1) * size, size), 1, step)
        answers = [rollout.sample for rollout in rollouts]
        place, pad_id = self._backend.place, self._ingredients.pad_id
        unshuffled = replace(self._recipe, data=replace(self._recipe.data, shuffle=False))
        return train_batches(unshuffled, place, answers, pad_id).global_batch(1)

    def _with_teacher(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        read = self._teacher.read(batches, self._read)
        return [replace(batch, extras=extras) for batch, extras in zip(batches, read, strict=True)]


def teacher_policy(recipe: Recipe) -> Policy:
    """The policy section of the teacher: its own model on the student's ranks.

    Raises:
        InputError: no teacher is described, or it would be no better than random.
    """
    assert recipe.distillation is not None
    teacher, policy = recipe.distillation.teacher, recipe.policy
    if teacher.model_name is None and teacher.hf_path is None:
        if not teacher.model_config:
            raise InputError(
                "the recipe names no teacher",
                fix="set distillation.teacher.model_name, or model_config with a warm_start",
            )
        if teacher.warm_start is None:
            raise InputError(
                "distillation.teacher has random weights: there is nothing to learn from it",
                fix="set distillation.teacher.model_name, or distillation.teacher.warm_start",
            )
    check_teacher(recipe)
    return replace(
        policy,
        model_name=teacher.model_name,
        hf_path=teacher.hf_path,
        model_config=teacher.model_config,
        lora=None,
        warm_start=teacher.warm_start,
    )


def check_vocabularies(student: Policy, teacher: Policy) -> None:
    """Raise an error where token ids do not mean the same to both.

    Raises:
        InputError: the vocabularies differ in size.
    """
    sizes = [
        models.load_config(policy).get_text_config().vocab_size for policy in (student, teacher)
    ]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"the student has a vocabulary of {sizes[0]} tokens, the teacher one of {sizes[1]}",
            fix="choose a teacher of the student's family",
        )


def build(ingredients: Ingredients) -> Distillation:
    """The algorithm of a recipe."""
    return Distillation(ingredients)
