"""Divergences of two distributions against their definitions."""

from __future__ import annotations

import pytest
import torch

from evenkeel.recipes.schema import Distillation, KlType
from evenkeel.training.algorithms.distillation import (
    TEACHER,
    TOKENS,
    distillation_loss,
    divergences,
    teacher_reader,
)
from evenkeel.training.backends.interface import IGNORED_LABEL, ModelOutput
from evenkeel.training.data.batches import MicroBatch

STUDENT = torch.tensor([[[0.5, 0.3, 0.2]]]).log()
TEACHER_PROBS = torch.tensor([[[0.1, 0.1, 0.8]]]).log()


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p.exp() * (p - q)).sum())


def test_forward_reverse_and_mixed() -> None:
    forward, reverse = kl(TEACHER_PROBS, STUDENT), kl(STUDENT, TEACHER_PROBS)
    expected = {
        KlType.FORWARD: forward,
        KlType.REVERSE: reverse,
        KlType.MIXED: 0.25 * forward + 0.75 * reverse,
    }
    for kind, value in expected.items():
        settings = Distillation(kl_type=kind, mixed_kl_weight=0.25)
        found = divergences(STUDENT, TEACHER_PROBS, settings)
        assert found.shape == (1, 1)
        assert float(found) == pytest.approx(value)


def batch(extras: dict[str, torch.Tensor]) -> MicroBatch:
    labels = torch.tensor([[1, IGNORED_LABEL, 2]])
    return MicroBatch(labels, labels, labels, labels, None, 2, (), extras)


def test_only_trained_tokens_count_and_temperature_keeps_the_gradients_size() -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = (ModelOutput(torch.randn(1, 3, 5, generator=generator)) for _ in range(2))
    extras = teacher_reader(teacher, batch({}), 2.0, None)
    loss, _ = distillation_loss(student, batch(extras), Distillation(temperature=2.0), 2.0)
    p, q = student.log_probs(2.0), teacher.log_probs(2.0)
    expected = 4 * (kl(q[0, 0], p[0, 0]) + kl(q[0, 2], p[0, 2])) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_likeliest_tokens_are_renormalised() -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (ModelOutput(torch.randn(1, 3, 6, generator=generator)) for _ in range(2))
    extras = teacher_reader(teacher, batch({}), 1.0, 2)
    assert extras[TOKENS].shape == (1, 3, 2)
    assert extras[TEACHER].exp().sum(-1).flatten().tolist() == pytest.approx([1, 1, 1])
    loss, _ = distillation_loss(student, batch(extras), Distillation(), 1.0)
    expected = 0.0
    for place in (0, 2):
        top = teacher.logits[0, place].topk(2).indices
        p = student.logits[0, place][top].log_softmax(0)
        q = teacher.logits[0, place][top].log_softmax(0)
        expected += kl(q, p)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_all_of_the_likeliest_tokens_are_the_whole_distribution() -> None:
    generator = torch.Generator().manual_seed(4)
    student, teacher = (ModelOutput(torch.randn(1, 3, 6, generator=generator)) for _ in range(2))
    some, whole = (
        distillation_loss(
            student, batch(teacher_reader(teacher, batch({}), 1.0, k)), Distillation(), 1.0
        )[0]
        for k in (100, None)
    )
    assert float(some) == pytest.approx(float(whole), rel=1e-5)
