from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evenkeel.training.attention import (
    block_diagonal_causal_mask,
    install_per_sample,
    sample_lengths,
)


def test_tokens_see_earlier_ones_of_their_own_sample() -> None:
    mask = block_diagonal_causal_mask(torch.tensor([[1, 1, 2, 2, 0]]))
    assert mask.shape == (1, 1, 5, 5)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


SEGMENTS = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]])


def test_lengths_of_samples_and_padding() -> None:
    assert sample_lengths(SEGMENTS) == [[3, 2, 1], [1, 5]]


@pytest.mark.parametrize("num_key_value_heads", [4, 2])
def test_sample_by_sample_is_the_block_diagonal_mask(num_key_value_heads: int) -> None:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_key_value_heads,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    ids = torch.randint(16, SEGMENTS.shape)
    mask = block_diagonal_causal_mask(SEGMENTS)
    masked = _logits_and_gradients(model, ids, attention_mask=mask)
    install_per_sample(model)
    still_masked = _logits_and_gradients(model, ids, attention_mask=mask)
    # a mask that would show everything: it must not be looked at
    open_mask = torch.ones_like(mask)
    lengths = sample_lengths(SEGMENTS)
    by_sample = _logits_and_gradients(model, ids, attention_mask=open_mask, sample_lengths=lengths)
    for before, same, found in zip(masked, still_masked, by_sample, strict=True):
        assert torch.equal(before, same)
        torch.testing.assert_close(found, before, atol=1e-6, rtol=1e-5)


def _logits_and_gradients(
    model: LlamaForCausalLM, ids: torch.Tensor, **inputs: object
) -> list[torch.Tensor]:
    model.zero_grad()
    logits = model(input_ids=ids, use_cache=False, **inputs).logits
    logits.logsumexp(dim=-1).sum().backward()
    return [logits.detach(), *(weight.grad.clone() for weight in model.parameters())]
