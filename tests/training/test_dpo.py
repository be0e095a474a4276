"""Preference optimisation: its first step, its curve, and what must not change it."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import pytest
from training_runs import curves, losses, train

from evenkeel.recipes.schema import Algorithm

DPO = Algorithm.DPO
STEPS = "dpo.max_num_steps=20"
WARM = ("++policy.warm_start.num_steps=5", "++policy.warm_start.global_batch_size=8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps at once, after a warm start."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder, STEPS, *WARM, algorithm=DPO) == 0
    return folder


def test_the_first_loss_is_ln_2(whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path, "dpo.max_num_steps=1", algorithm=DPO) == 0
    for folder in (whole, tmp_path):
        first = {name: steps[1] for name, steps in curves(folder).items() if 1 in steps}
        assert first["train/preference_loss"] == first["train/loss"]
        assert first["train/loss"] == pytest.approx(log(2), abs=1e-7)
        assert first["train/rewards_chosen_mean"] == first["train/rewards_rejected_mean"] == 0.0


def test_it_prefers_what_was_chosen_in_a_file(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"prompt": str(n), "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(40)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = ("data.dataset=jsonl", f"data.train_path={pairs}", "dpo.max_num_steps=15")
    assert train(tmp_path, *data, algorithm=DPO) == 0
    metrics = curves(tmp_path)
    assert losses(tmp_path)[15] < log(2) / 2
    assert metrics["train/accuracy"][15] == 1.0
    assert metrics["train/rewards_chosen_mean"][15] > metrics["train/rewards_rejected_mean"][15]
    assert metrics["validation/accuracy"][15] == 1.0
    assert 0 < metrics["validation/preference_loss"][15] < log(2) / 2


def test_stopped_and_continued_is_bit_equal(whole: Path, tmp_path: Path) -> None:
    steps_per_run = "dpo.steps_per_run=12"
    for _ in range(2):
        assert train(tmp_path, STEPS, steps_per_run, *WARM, algorithm=DPO) == 0
    stopped, unbroken = curves(tmp_path), curves(whole)
    for name in ("train/loss", "train/grad_norm", "train/accuracy"):
        assert stopped[name] == unbroken[name]
    assert stopped["validation/loss"][20] == unbroken["validation/loss"][20]


def test_micro_batches_do_not_change_the_curve(whole: Path, tmp_path: Path) -> None:
    size = "policy.train_micro_batch_size=3"
    assert train(tmp_path, STEPS, size, *WARM, algorithm=DPO) == 0
    reference = losses(whole)
    for step, loss in losses(tmp_path).items():
        assert loss == pytest.approx(reference[step], abs=1e-5)


@pytest.mark.parametrize("key", ["sequence_packing", "dynamic_batching"])
def test_what_would_part_a_pair_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert train(tmp_path, f"policy.{key}.enabled=true", algorithm=DPO) == 2
    assert f"policy.{key}.enabled=false" in capsys.readouterr().err
