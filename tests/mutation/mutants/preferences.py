"""Bugs of preference optimisation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mutants.registry import Patch, mutant


@mutant(
    "preferences-swapped-10-percent",
    breaks="in every tenth training pair the rejected answer is taken for the chosen one",
    seen="class: a field of one of several sources read the other way round",
    needs=("dpo",),
)
def _swapped(patch: Patch) -> None:
    class Swapped:
        def __init__(self, pairs: Any) -> None:
            self._pairs = pairs

        def __len__(self) -> int:
            return len(self._pairs)

        def __getitem__(self, index: int) -> Any:
            return self._pairs[index ^ 1 if (index // 2) % 10 == 0 else index]

    def make(original: Any) -> Any:
        def open_pairs(recipe: Any, tokenizer: Any, split: str) -> Any:
            pairs = original(recipe, tokenizer, split)
            return Swapped(pairs) if split == "train" else pairs

        return open_pairs

    patch("data.preferences:open_pairs", make)


def reference_follows(train_step: Any) -> Any:
    """A step of an algorithm with a reference, which then becomes the policy's copy."""

    def followed(self: Any, step: int) -> Any:
        result = train_step(self, step)
        self._reference.copy(self._backend)
        return result

    return followed


@mutant(
    "dpo-reference-updated",
    breaks="the reference follows the policy after every step",
    seen="class: two names for one model",
    needs=("dpo",),
)
def _reference_updated(patch: Patch) -> None:
    patch("algorithms.dpo:Dpo.train_step", reference_follows)


@mutant(
    "dpo-beta-ignored",
    breaks="the loss uses twice the recipe's beta",
    seen="class: a default of the loss function wins over the recipe",
    needs=("dpo",),
)
def _beta_ignored(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def preference_losses(margins: Any, settings: Any) -> Any:
            return original(2 * margins, settings)

        return preference_losses

    patch("algorithms.dpo:preference_losses", make)


@mutant(
    "dpo-log-probs-averaged",
    breaks="an answer's log probability is averaged over its tokens instead of summed",
    seen="class: average_log_prob, which some losses of one trainer need and others must not have",
    needs=("dpo",),
)
def _averaged(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def dpo_loss(output: Any, batch: Any, settings: Any, num_pairs: float) -> Any:
            changed = replace(settings, preference_average_log_probs=True)
            return original(output, batch, changed, num_pairs)

        return dpo_loss

    patch("algorithms.dpo:dpo_loss", make)


@mutant(
    "dpo-reference-from-before-the-warm-start",
    breaks="the reference is the model before its supervised start",
    seen="class: the reference loaded from the base model instead of the fine-tuned one",
    needs=("dpo",),
)
def _reference_too_old(patch: Patch) -> None:
    patch("algorithms.warm_start:FrozenModel.copy", lambda _: lambda self, backend: None)


@mutant(
    "dpo-prompt-counted",
    breaks="the log probabilities of the prompt are part of those of the answer",
    seen="class: prompt tokens not masked; equal in both answers but not after padding and cutting",
    needs=("dpo",),
)
def _prompt_counted(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def encode(self: Any, record: Any) -> Any:
            sample = original(self, record)
            return replace(sample, loss_mask=[1] * len(sample.input_ids))

        return encode

    patch("data.chat_mask:Encoder.__call__", make)
