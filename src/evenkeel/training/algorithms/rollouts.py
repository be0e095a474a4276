"""Sampling and scoring answers: what reinforcement learning and on-policy distillation train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Generation
from evenkeel.training import models
from evenkeel.training.algorithms.interface import Ingredients
from evenkeel.training.backends.interface import IGNORED_LABEL
from evenkeel.training.data.batches import BatchSource, MicroBatch, Sample
from evenkeel.training.data.hash_order import key
from evenkeel.training.data.image_processors import ImageInputs
from evenkeel.training.data.prompts import Prompt, stop_ids
from evenkeel.training.generation import engines
from evenkeel.training.generation.interface import GREEDY, Request, Sampling
from evenkeel.training.rewards import Judged, Reward, exact_match

_DRAW_KEY = 0xD4A3


@dataclass(frozen=True)
class Rollout:
    """One sampled answer."""

    prompt_ids: list[int]
    answer_ids: list[int]
    log_probs: list[float]
    """Of the answer's tokens, as the generator saw them."""
    is_finished: bool
    reward: float
    accuracy: float
    """1 for the right answer, where that is known."""
    images: tuple[ImageInputs, ...] = ()
    """Of the prompt."""

    @property
    def sample(self) -> Sample:
        """All tokens; those of the answer are trained."""
        mask = [0] * len(self.prompt_ids) + [1] * len(self.answer_ids)
        return Sample(self.prompt_ids + self.answer_ids, mask, self.images)


class Sampler:
    """Answers prompts with the present policy; all ranks get all answers."""

    def __init__(self, ingredients: Ingredients, reward: Reward | None) -> None:
        """Bind it to the policy; without a ``reward``, answers are not judged."""
        recipe = ingredients.recipe
        self._generation = recipe.policy.generation or Generation()
        self._backend, self._tokenizer = ingredients.backend, ingredients.tokenizer
        self._reward, self._seed = reward, recipe.seed
        self._max_length = recipe.policy.max_total_sequence_length
        self.sampling = Sampling(
            self._generation.temperature, self._generation.top_p, self._generation.top_k
        )
        stops = stop_ids(ingredients.tokenizer)
        if recipe.policy.vision is not None:
            # the model could take in no image for such a token; as the last one it is only a label
            stops.add(models.image_token_id(models.load_config(recipe.policy)))
        self._engine = engines.build(ingredients, stops)

    def sample(self, prompts: Sequence[Prompt], num_answers: int, step: int) -> list[Rollout]:
        """``num_answers`` to each prompt, one prompt after the other."""
        return self._answers(prompts, num_answers, step, self.sampling)

    def greedy(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """The likeliest answer to each prompt, as far as one token at a time tells."""
        return self._answers(prompts, 1, 0, GREEDY)

    def _answers(
        self, prompts: Sequence[Prompt], num_answers: int, step: int, sampling: Sampling
    ) -> list[Rollout]:
        share = -(-len(prompts) // self._backend.place.size)
        first = self._backend.place.rank * share
        mine = prompts[first : first + share]
        requests = [
            Request(
                prompt.token_ids,
                self._room(prompt),
                key(_DRAW_KEY, self._seed, step, prompt.index, number),
                prompt.images,
            )
            for prompt in mine
            for number in range(num_answers)
        ]
        self._engine.hand_over_weights()
        completions = self._engine.generate(requests, sampling)
        texts = self._tokenizer.batch_decode(
            [completion.token_ids for completion in completions], skip_special_tokens=True
        )
        rollouts = []
        for number, (completion, text) in enumerate(zip(completions, texts, strict=True)):
            prompt = mine[number // num_answers]
            reward, accuracy = self._scores(
                Judged(
                    text,
                    len(completion.token_ids),
                    requests[number].max_new_tokens,
                    completion.is_finished,
                    prompt.task,
                    prompt.verifier,
                )
            )
            rollouts.append(
                Rollout(
                    prompt.token_ids,
                    completion.token_ids,
                    completion.log_probs,
                    completion.is_finished,
                    reward,
                    accuracy,
                    prompt.images,
                )
            )
        return self._backend.gather(rollouts)

    def _scores(self, judged: Judged) -> tuple[float, float]:
        if self._reward is None:
            return 0.0, 0.0
        return self._reward(judged), exact_match(judged)

    def _room(self, prompt: Prompt) -> int:
        """Tokens of the answer, so that prompt and answer fit the model."""
        room = self._max_length - len(prompt.token_ids)
        wanted = self._generation.max_new_tokens
        if room < (wanted or 1):
            raise InputError(
                f"a prompt has {len(prompt.token_ids)} tokens, which leaves {max(room, 0)} of "
                f"policy.max_total_sequence_length = {self._max_length} for the answer",
                path=prompt.task.place,
                fix="raise it, or lower policy.generation.max_new_tokens",
            )
        return wanted or room


def batches_of(rollouts: Sequence[Rollout], source: Mapping[str, Any]) -> BatchSource:
    """Rollouts in the order given, in batches; ``source`` are arguments of ``BatchSource``."""
    return BatchSource([rollout.sample for rollout in rollouts], shuffle=False, seed=0, **source)


def with_token_values(
    batch: MicroBatch, values: Mapping[str, Sequence[Sequence[float]]]
) -> MicroBatch:
    """Attach numbers to the trained tokens, (batch, seq) each, 0 elsewhere.

    Args:
        batch: from ``batches_of``.
        values: by name; for each rollout one number per token of its answer.
    """
    extras: dict[str, Tensor] = dict(batch.extras)
    trained = batch.labels != IGNORED_LABEL
    for name, of_rollout in values.items():
        attached = torch.zeros(batch.labels.shape)
        for row, members in enumerate(batch.sample_indices):
            # the trained tokens of a row are those of its samples, left to right
            numbers = [number for index in members for number in of_rollout[index]]
            attached[row][trained[row]] = torch.tensor(numbers)
        extras[name] = attached
    return replace(batch, extras=extras)
