"""Group-relative policy optimisation: its first step, repeats, continuation, and micro-batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import curves, train

from evenkeel.recipes.schema import Algorithm

GRPO = Algorithm.GRPO
CURVES = ("train/loss", "train/grad_norm", "train/reward", "train/kl_penalty")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 steps at once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder, algorithm=GRPO) == 0
    return folder


def test_the_first_step_is_on_policy(whole: Path) -> None:
    first = {name: steps[1] for name, steps in curves(whole).items() if 1 in steps}
    assert first["train/probs_ratio"] == pytest.approx(1, abs=1e-6)
    assert first["train/probs_ratio_clamped"] == pytest.approx(1, abs=1e-6)
    # the reference is the policy after its warm start, and the generator the policy itself
    assert first["train/kl_penalty"] == pytest.approx(0, abs=1e-7)
    assert first["train/token_mult_prob_error"] == pytest.approx(1, abs=1e-4)
    assert first["train/gen_kl_error"] == pytest.approx(0, abs=1e-6)
    assert 1 < first["train/approx_entropy"] < 6
    assert 1 <= first["train/mean_gen_tokens_per_sample"] <= 12


def test_the_policy_leaves_the_reference(whole: Path) -> None:
    assert curves(whole)["train/kl_penalty"][4] > 0


def test_stopped_and_continued_is_bit_equal(whole: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert train(tmp_path, "grpo.steps_per_run=3", algorithm=GRPO) == 0
    stopped, unbroken = curves(tmp_path), curves(whole)
    for name in CURVES:
        assert stopped[name] == unbroken[name], name
    for name in ("validation/accuracy", "validation/avg_length"):
        assert stopped[name][4] == unbroken[name][4]


@pytest.mark.parametrize(
    "layout",
    [
        ("policy.train_micro_batch_size=3",),
        ("policy.sequence_packing.enabled=true", "policy.max_total_sequence_length=40"),
    ],
)
def test_micro_batches_and_packing_do_not_change_the_curve(
    whole: Path, tmp_path: Path, layout: tuple[str, ...]
) -> None:
    assert train(tmp_path, *layout, algorithm=GRPO) == 0
    reference, found = curves(whole), curves(tmp_path)
    for name in CURVES:
        for step in range(1, 4):
            assert found[name][step] == pytest.approx(reference[name][step], abs=1e-3), name


def test_the_ratio_leaves_1_with_further_updates_on_the_same_answers(tmp_path: Path) -> None:
    overrides = (
        "policy.train_global_batch_size=8",
        "grpo.num_inner_epochs=2",
        "grpo.max_num_steps=1",
        "grpo.use_importance_sampling_correction=true",
        "grpo.importance_sampling_truncation=2",
        "grpo.token_level_loss=false",
        "grpo.ratio_clip_c=3",
    )
    assert train(tmp_path, *overrides, algorithm=GRPO) == 0
    metrics = curves(tmp_path)
    assert abs(metrics["train/probs_ratio"][1] - 1) > 1e-5
    assert metrics["train/sampling_importance_ratio"][1] == pytest.approx(1, abs=1e-4)


def test_dynamic_sampling_draws_more_prompts_and_continues_where_it_was(tmp_path: Path) -> None:
    overrides = (
        "grpo.use_dynamic_sampling=true",
        "grpo.max_dynamic_sampling_rounds=3",
        "++grpo.rewards.token_overlap=0",
        "grpo.rewards.exact_match=1",
        "grpo.max_num_steps=2",
    )
    assert train(tmp_path / "whole", *overrides, algorithm=GRPO) == 0
    for _ in range(2):
        assert train(tmp_path / "two", *overrides, "grpo.steps_per_run=1", algorithm=GRPO) == 0
    whole, stopped = curves(tmp_path / "whole"), curves(tmp_path / "two")
    # this model never adds rightly: all groups are alike, and all rounds are used
    assert whole["train/num_sampled_prompts"] == {1: 12.0, 2: 12.0}
    for name in (*CURVES, "train/mean_gen_tokens_per_sample"):
        assert stopped[name] == whole[name]


def test_a_batch_size_that_does_not_divide_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "policy.train_global_batch_size=5", algorithm=GRPO) == 2
    assert "does not divide the 16 answers" in capsys.readouterr().err
