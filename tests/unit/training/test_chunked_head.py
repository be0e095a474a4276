"""Logits in chunks give what all logits at once give, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evenkeel.training.backends.chunked_head import ChunkedHead, ChunkedOutput
from evenkeel.training.backends.interface import IGNORED_LABEL, ModelOutput

HIDDEN = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([[3, IGNORED_LABEL, 0, 10, 2], [IGNORED_LABEL] * 4 + [7]])


def both(num_positions: int) -> tuple[nn.Linear, ModelOutput, ChunkedOutput]:
    torch.manual_seed(2)
    head = nn.Linear(8, 11)
    whole = ModelOutput(head(HIDDEN))
    return head, whole, ChunkedOutput(HIDDEN, ChunkedHead(head, num_positions))


@pytest.mark.parametrize("num_positions", [1, 3, 100])
def test_losses_and_gradients(num_positions: int) -> None:
    head, whole, chunked = both(num_positions)
    expected = whole.sum_of_token_losses(LABELS)
    (gradient,) = torch.autograd.grad(expected, [head.weight])
    found = chunked.sum_of_token_losses(LABELS)
    (found_gradient,) = torch.autograd.grad(found, [head.weight])
    assert torch.allclose(found, expected)
    assert torch.allclose(found_gradient, gradient, atol=1e-6)


def test_log_probs_and_likeliest_tokens() -> None:
    _, whole, chunked = both(3)
    for temperature in (1.0, 0.5):
        expected = whole.token_log_probs(LABELS, temperature)
        assert torch.allclose(chunked.token_log_probs(LABELS, temperature), expected, atol=1e-6)
    assert torch.equal(chunked.most_likely_tokens(), whole.most_likely_tokens())
    assert torch.allclose(chunked.log_probs(2.0), whole.log_probs(2.0), atol=1e-6)


def test_no_trained_position_gives_a_zero_loss_with_a_zero_gradient() -> None:
    head, _, chunked = both(3)
    loss = chunked.sum_of_token_losses(torch.full_like(LABELS, IGNORED_LABEL))
    assert float(loss.detach()) == 0
    (gradient,) = torch.autograd.grad(loss, [head.weight])
    assert float(gradient.abs().max()) == 0


def test_the_layer_passes_hidden_states_on() -> None:
    head, _, _ = both(3)
    assert torch.equal(head(HIDDEN), HIDDEN)
