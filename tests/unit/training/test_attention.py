from __future__ import annotations

import torch

from evenkeel.training.attention import block_diagonal_causal_mask


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
