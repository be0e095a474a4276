"""Language modelling on running text."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import curves, losses, train

from evenkeel.recipes.schema import Algorithm

STEPS = "pretrain.max_num_steps=40"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 steps at once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder, STEPS, algorithm=Algorithm.PRETRAIN) == 0
    return folder


def test_it_learns_and_reports_bits_per_byte(whole: Path) -> None:
    loss = losses(whole)
    assert loss[1] == pytest.approx(5.6, abs=0.1)
    assert loss[40] < 3.6
    metrics = curves(whole)
    # one token of `bytes` is one byte, but for the two tokens around each document
    bits = metrics["validation/loss"][40] / 0.693147
    assert metrics["validation/bits_per_byte"][40] == pytest.approx(bits, rel=0.01)
    assert metrics["validation/bits_per_byte"][40] > bits


def test_every_token_is_trained(whole: Path) -> None:
    assert set(curves(whole)["train/global_valid_toks"].values()) == {8 * 64.0}


def test_stopped_and_continued_is_bit_equal(whole: Path, tmp_path: Path) -> None:
    for steps in (25, 40):
        steps_so_far = f"pretrain.max_num_steps={steps}"
        assert train(tmp_path, steps_so_far, algorithm=Algorithm.PRETRAIN) == 0
    assert losses(tmp_path) == losses(whole)
    assert curves(tmp_path)["validation/loss"][40] == curves(whole)["validation/loss"][40]
