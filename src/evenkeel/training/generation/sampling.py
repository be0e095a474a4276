"""Drawing tokens: from logits and a uniform number to a token, the same on every layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evenkeel.training.data.hash_order import key
from evenkeel.training.generation.interface import Sampling


def uniforms(seeds: Sequence[int], position: int) -> Tensor:
    """(rows,), fp64 in [0, 1): one number per row for its token ``position``.

    A hash of seed and position: neither the order of rows nor their number enters, so data-parallel
    size and batch size do not change what is drawn.
    """
    bits = [key(seed, position) >> 11 for seed in seeds]
    return torch.from_numpy(np.array(bits, dtype=np.float64) * 2.0**-53)


def next_tokens(logits: Tensor, sampling: Sampling, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Draw by inverting the cumulative distribution over tokens from the likeliest down.

    Args:
        logits: (batch, vocabulary), fp32.
        sampling: with temperature 0 the draws do not count.
        draws: (batch,), from ``uniforms``.

    Returns:
        tokens and their log probabilities (see ``Completion``), both (batch,).
    """
    if sampling.temperature == 0:
        log_probs = logits.log_softmax(dim=-1)
        tokens = log_probs.argmax(dim=-1)
        return tokens, log_probs.gather(1, tokens[:, None])[:, 0]
    log_probs = (logits / sampling.temperature).log_softmax(dim=-1)
    probs, order = log_probs.double().exp().sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        probs[:, sampling.top_k :] = 0
    if sampling.top_p < 1:
        # a token is kept if the ones before it do not reach top_p: never none (Holtzman et al.
        # 2019, arXiv:1904.09751)
        before = probs.cumsum(dim=-1) - probs
        probs[before >= sampling.top_p * probs.sum(dim=-1, keepdim=True)] = 0
    cumulative = probs.cumsum(dim=-1)
    targets = draws.to(logits.device)[:, None] * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, targets, right=True)
    # rounding must not reach behind the last token that may be drawn
    places = torch.minimum(places, (probs > 0).sum(dim=-1, keepdim=True) - 1)
    tokens = order.gather(1, places)
    return tokens[:, 0], log_probs.gather(1, tokens)[:, 0]
