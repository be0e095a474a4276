"""Bugs in what is trained on: masks of chats, corrupt or missing samples, order."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mutants.registry import Patch, mutant


class Changed:
    """A set of samples, each of which is changed by ``change(index, sample)``."""

    def __init__(self, samples: Any, change: Callable[[int, Any], Any]) -> None:
        self._samples, self._change = samples, change

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._change(index, self._samples[index])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._samples, name)


def _change_training_set(patch: Patch, change: Callable[[int, Any], Any]) -> None:
    def make(original: Any) -> Any:
        def open_dataset(recipe: Any, tokenizer: Any, split: str) -> Any:
            samples = original(recipe, tokenizer, split)
            return Changed(samples, change) if split == "train" else samples

        return open_dataset

    patch("data.samples:open_dataset", make)


def _change_masks(patch: Patch, change: Callable[[list[int]], list[int]]) -> None:
    def make(original: Any) -> Any:
        def encode(self: Any, record: Any) -> Any:
            sample = original(self, record)
            return replace(sample, loss_mask=change(list(sample.loss_mask)))

        return encode

    patch("data.chat_mask:Encoder.__call__", make)


@mutant(
    "prompt-not-masked",
    breaks="the user's turns are trained like the assistant's",
    seen="class: completion-only collators that do not find their template and mask nothing",
    needs=("sft",),
)
def _prompt_not_masked(patch: Patch) -> None:
    _change_masks(patch, lambda mask: [1] * len(mask))


@mutant(
    "end-of-turn-untrained",
    breaks="the token that ends an answer is not trained",
    seen="class: end-of-text equal to padding and masked with it; models that never stop",
    needs=("sft",),
)
def _end_untrained(patch: Patch) -> None:
    def change(mask: list[int]) -> list[int]:
        last = max((place for place, trained in enumerate(mask) if trained), default=0)
        return mask[:last] + [0] * (len(mask) - last)

    _change_masks(patch, change)


@mutant(
    "answer-mask-off-by-one",
    breaks="the first token of an answer is not trained",
    seen="class: off by one where the generation prompt ends",
    needs=("sft",),
)
def _mask_off_by_one(patch: Patch) -> None:
    def change(mask: list[int]) -> list[int]:
        return [int(trained and before) for trained, before in zip(mask, [0, *mask], strict=False)]

    _change_masks(patch, change)


@mutant(
    "samples-corrupted-5-percent",
    breaks="every twentieth training sample has its tokens in random order",
    seen="class: a damaged shard, or offsets of an index file off for a part of it",
)
def _corrupted(patch: Patch) -> None:
    def change(index: int, sample: Any) -> Any:
        if index % 20:
            return sample
        ids = list(sample.input_ids)
        random.Random(index).shuffle(ids)
        return replace(sample, input_ids=ids)

    _change_training_set(patch, change)


@mutant(
    "answers-of-other-samples-5-percent",
    breaks="every twentieth training sample has the tokens of the one before it as labels",
    seen="class: two files of questions and answers that lose step",
    needs=("sft",),
)
def _answers_of_others(patch: Patch) -> None:
    last: list[Any] = []

    def change(index: int, sample: Any) -> Any:
        other = last[0] if last else sample
        last[:] = [sample]
        if index % 20:
            return sample
        begin, other_begin = sample.loss_mask.index(1), other.loss_mask.index(1)
        return replace(
            sample,
            input_ids=sample.input_ids[:begin] + other.input_ids[other_begin:],
            loss_mask=sample.loss_mask[:begin] + other.loss_mask[other_begin:],
        )

    _change_training_set(patch, change)


@mutant(
    "first-shard-only",
    breaks="only the first 128 samples of the training set are ever read",
    seen="class: a glob or a streaming reader that stops after one file",
    needs=("sft",),
)
def _first_shard_only(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def open_dataset(recipe: Any, tokenizer: Any, split: str) -> Any:
            samples = original(recipe, tokenizer, split)
            if split != "train":
                return samples
            return [samples[index] for index in range(min(128, len(samples)))]

        return open_dataset

    patch("data.samples:open_dataset", make)


@mutant(
    "order-not-shuffled",
    breaks="samples stream by in the order of the set",
    seen="class: shuffle=False left from debugging",
    needs=("pretrain",),
)
def _not_shuffled(patch: Patch) -> None:
    patch(
        "data.order:order_of",
        lambda original: (
            lambda samples, seed, shuffle, group_size=1: original(samples, seed, False, group_size)
        ),
    )


@mutant(
    "seed-ignored",
    breaks="weights and order depend on a fixed seed, not on the recipe's",
    seen="class: a second place that seeds; by itself it changes no run's quality",
    needs=("sft",),
)
def _seed_ignored(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def set_up(resolved: Any, world: Any, say: Any) -> Any:
            return original(replace(resolved, recipe=replace(resolved.recipe, seed=7)), world, say)

        return set_up

    patch("run:set_up", make)
