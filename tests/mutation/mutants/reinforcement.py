"""Bugs of group-relative policy optimisation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mutants.preferences import reference_follows
from mutants.registry import Patch, mutant


@mutant(
    "grpo-kl-sign-flipped",
    breaks="the penalty drives the policy away from its reference",
    seen="class: the arguments of a divergence in the wrong order",
    needs=("grpo", "kl"),
)
def _kl_sign(patch: Patch) -> None:
    patch(
        "algorithms.grpo_objective:kl_estimate",
        lambda original: lambda log_ratio, estimator: -original(log_ratio, estimator),
    )


@mutant(
    "grpo-reference-updated",
    breaks="the reference follows the policy after every step",
    seen="class: two names for one model",
    needs=("grpo", "kl"),
)
def _reference_updated(patch: Patch) -> None:
    patch("algorithms.grpo:Grpo.train_step", reference_follows)


def _change_advantages(patch: Patch, **settings: Any) -> None:
    patch(
        "algorithms.grpo:advantages",
        lambda original: lambda rewards, given: original(rewards, replace(given, **settings)),
    )


@mutant(
    "grpo-advantages-not-scaled",
    breaks="advantages are not divided by the spread of their group",
    seen="class: a normalisation that is on in one code path only",
    needs=("grpo",),
)
def _not_scaled(patch: Patch) -> None:
    _change_advantages(patch, normalize_rewards=False)


@mutant(
    "grpo-advantages-not-centred",
    breaks="rewards are used as advantages, without the mean of their group",
    seen="class: groups flattened before their mean is taken",
    needs=("grpo",),
)
def _not_centred(patch: Patch) -> None:
    patch("algorithms.grpo:advantages", lambda _: lambda rewards, settings: rewards)


@mutant(
    "grpo-groups-mixed",
    breaks="an answer is compared with answers to other prompts",
    seen="class: interleaved instead of repeated prompts, so that a reshape mixes groups",
    needs=("grpo",),
)
def _groups_mixed(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def advantages(rewards: Any, settings: Any) -> Any:
            mixed = rewards.T.reshape(rewards.shape)
            return original(mixed, settings).reshape(rewards.T.shape).T

        return advantages

    patch("algorithms.grpo:advantages", make)


@mutant(
    "grpo-rewards-off-by-one",
    breaks="each answer gets the reward of the answer before it",
    seen="class: an index into a list that was filtered or sorted",
    needs=("grpo",),
)
def _rewards_off_by_one(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def sample(self: Any, prompts: Any, num_answers: int, step: int) -> Any:
            found = original(self, prompts, num_answers, step)
            return [
                replace(one, reward=found[number - 1].reward) for number, one in enumerate(found)
            ]

        return sample

    patch("algorithms.rollouts:Sampler.sample", make)


@mutant(
    "grpo-log-probs-of-the-new-policy",
    breaks="the old policy's log probabilities are taken after the update: ratios are always 1",
    seen="class: log probabilities recomputed for every mini-batch",
    needs=("grpo", "updates"),
)
def _new_log_probs(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def grpo_loss(output: Any, batch: Any, **settings: Any) -> Any:
            extras = {k: v for k, v in batch.extras.items() if k != "previous_log_probs"}
            return original(output, replace(batch, extras=extras), **settings)

        return grpo_loss

    patch("algorithms.grpo:grpo_loss", make)


@mutant(
    "grpo-log-probs-stale",
    breaks="the old policy's log probabilities are those of the reference",
    seen="class: log probabilities or weights that are not refreshed between steps",
    needs=("grpo", "updates", "kl"),
)
def _stale_log_probs(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def grpo_loss(output: Any, batch: Any, **settings: Any) -> Any:
            stale = {"previous_log_probs": batch.extras["reference_log_probs"]}
            return original(output, replace(batch, extras={**batch.extras, **stale}), **settings)

        return grpo_loss

    patch("algorithms.grpo:grpo_loss", make)


@mutant(
    "grpo-temperature-ignored",
    breaks="the trainer's log probabilities are not those of the temperature that was sampled at",
    seen="class: sampling settings that only the generator knows",
    needs=("grpo", "temperature"),
)
def _temperature_ignored(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def token_log_probs(self: Any, labels: Any, temperature: float = 1.0) -> Any:
            return original(self, labels)

        return token_log_probs

    patch("backends.interface:ModelOutput.token_log_probs", make)


@mutant(
    "grpo-end-of-answer-untrained",
    breaks="the token that ends an answer has no weight in the loss",
    seen="class: a mask that stops before the end-of-turn token",
    needs=("grpo",),
)
def _end_untrained(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def token_weights(lengths: Any, batch_size: int, token_level: bool) -> Any:
            found = original(lengths, batch_size, token_level)
            return [[*weights[:-1], 0.0] if weights else weights for weights in found]

        return token_weights

    patch("algorithms.grpo:token_weights", make)


@mutant(
    "grpo-prompts-repeated",
    breaks="every step samples answers to the same prompts",
    seen="class: an iterator that is made anew in every step",
    needs=("grpo",),
)
def _prompts_repeated(patch: Patch) -> None:
    patch(
        "data.prompts:PromptStream.take",
        lambda original: lambda self, start, count: original(self, 0, count),
    )
