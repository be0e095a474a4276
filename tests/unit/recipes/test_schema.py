from __future__ import annotations

import pytest

from evenkeel.recipes.schema import Algorithm, DynamicBatching, Grpo, Policy, Recipe, Sft


def recipe(val_global: int, val_micro: int | None, policy: Policy | None = None) -> Recipe:
    sft = Sft(val_global_batch_size=val_global, val_micro_batch_size=val_micro)
    return Recipe(sft=sft, policy=policy or Policy(train_micro_batch_size=4))


@pytest.mark.parametrize(
    ("val_global", "val_micro", "expected"),
    [
        (64, None, 4),  # as in training
        (64, 100, 32),  # a rank's whole share
        (6, None, 3),  # which is smaller than the limit
        (20, 8, 5),  # 5 and 5, not 8 and 2
        (1, 1, 1),
    ],
)
def test_validation_takes_as_few_equal_passes_as_the_limit_allows(
    val_global: int, val_micro: int | None, expected: int
) -> None:
    assert recipe(val_global, val_micro).val_samples_per_pass(2) == expected


def test_batches_by_tokens_limit_validation_to_rows_of_full_length() -> None:
    batching = DynamicBatching(enabled=True, train_micro_batch_tokens=1000)
    policy = Policy(dynamic_batching=batching, max_total_sequence_length=300)
    assert recipe(64, None, policy).val_samples_per_pass(2) == 3
    policy.max_total_sequence_length = 2000
    assert recipe(64, None, policy).val_samples_per_pass(2) == 1


def test_answers_are_limited_to_those_that_a_step_samples() -> None:
    grpo = Grpo(num_prompts_per_step=3, num_generations_per_prompt=4, val_global_batch_size=64)
    found = Recipe(algorithm=Algorithm.GRPO, grpo=grpo)
    assert grpo.answers_per_rank(2) == 8
    assert found.val_samples_per_pass(2) == 8
    grpo.val_micro_batch_size = 12
    assert found.val_samples_per_pass(2) == 11
