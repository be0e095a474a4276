"""What a metric's name and values tell of it."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.convergence.metric_kinds import Direction, kind_of


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("validation/accuracy", True), ("eval_acc", True), ("pass@1", True), ("win_rate", True),
        ("val/mIoU", True), ("exact_match", True), ("train/reward", False), ("bleu", False),
        ("reward/accuracy", False), ("tasks_solved", False), ("train/loss", False),
    ],
)  # fmt: skip
def test_which_metrics_are_shares(name: str, share: bool) -> None:
    values = np.array([[0.0, 0.5, 1.0]])
    for direction in (None, *Direction):
        kind = kind_of(name, direction)
        assert kind.has_shares(values) is share
        assert not kind.has_shares(np.array([[0.5, 1.25]]))
        assert not kind.has_shares(np.array([[-0.5, 0.25]]))


def test_a_direction_overrides_the_side_alone() -> None:
    usual, other = kind_of("validation/accuracy"), kind_of("validation/accuracy", Direction.BOTH)
    assert (usual.direction, other.direction) == (Direction.HIGHER, Direction.BOTH)
    assert (other.prior, other.coarse, other.weight) == (usual.prior, usual.coarse, usual.weight)
