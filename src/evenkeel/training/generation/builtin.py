"""Generation with the training model itself: nothing to hand over, no second copy of the weights.

Rows are padded on the left, so that all of them write their next token at the same place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from evenkeel.training.backends.decoding import Decoder
from evenkeel.training.backends.interface import Backend
from evenkeel.training.data.batches import joined
from evenkeel.training.generation.interface import (
    Completion,
    GenerationEngine,
    Request,
    Sampling,
)
from evenkeel.training.generation.sampling import next_tokens, uniforms


class BuiltinEngine(GenerationEngine):
    """Decodes batches of requests on the training backend."""

    def __init__(
        self, backend: Backend, stop_ids: Collection[int], pad_id: int, max_rows: int | None = None
    ) -> None:
        """Bind an engine to the model.

        Args:
            backend: holds the policy.
            stop_ids: tokens that end an answer.
            pad_id: what fills rows up.
            max_rows: rows that are decoded together; None: all.
        """
        self._backend, self._pad_id, self._max_rows = backend, pad_id, max_rows
        self._stop_ids = torch.tensor(sorted(stop_ids))

    def hand_over_weights(self) -> None:
        """See ``GenerationEngine``: the weights are the policy's own."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """See ``GenerationEngine``."""
        size = self._max_rows or max(len(requests), 1)
        # like-long prompts together: less padding
        order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt_ids))
        found: dict[int, Completion] = {}
        for start in range(0, max(len(order), 1), size):
            part = order[start : start + size]
            with self._backend.decoder() as decode:
                if part:
                    rows = self._decode(decode, [requests[index] for index in part], sampling)
                    found.update(zip(part, rows, strict=True))
        return [found[index] for index in range(len(requests))]

    def _decode(
        self, decode: Decoder, requests: Sequence[Request], sampling: Sampling
    ) -> list[Completion]:
        new_ids, mask = self._left_padded(requests)  # shape: (batch, longest prompt)
        images = joined([image for request in requests for image in request.images])
        limits = torch.tensor([request.max_new_tokens for request in requests])
        seeds = [request.seed for request in requests]
        running = torch.ones(len(requests), dtype=torch.bool)
        finished = torch.zeros_like(running)
        tokens, log_probs, written = [], [], []
        for position in range(int(limits.max())):
            logits = decode(new_ids, mask, images if position == 0 else {})
            drawn, drawn_log_probs = next_tokens(logits, sampling, uniforms(seeds, position))
            drawn = torch.where(running, drawn.cpu(), self._pad_id)
            tokens.append(drawn)
            log_probs.append(drawn_log_probs)
            written.append(running)
            finished = finished | (running & torch.isin(drawn, self._stop_ids))
            running = ~finished & (limits > position + 1)
            if not running.any():
                break
            new_ids = drawn[:, None]
            mask = torch.cat([mask, torch.ones(len(requests), 1, dtype=mask.dtype)], dim=1)
        return _completions(
            torch.stack(tokens, dim=1),
            torch.stack(log_probs, dim=1).cpu(),
            torch.stack(written, dim=1),
            finished,
        )

    def _left_padded(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        width = max(len(request.prompt_ids) for request in requests)
        ids = torch.full((len(requests), width), self._pad_id)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            start = width - len(request.prompt_ids)
            ids[row, start:] = torch.tensor(request.prompt_ids)
            mask[row, start:] = 1
        return ids, mask


def _completions(
    tokens: Tensor, log_probs: Tensor, written: Tensor, finished: Tensor
) -> list[Completion]:
    """One per row of (batch, new) tensors."""
    lengths = written.sum(dim=1).tolist()
    return [
        Completion(row_tokens[:length], row_log_probs[:length], is_finished)
        for row_tokens, row_log_probs, length, is_finished in zip(
            tokens.tolist(), log_probs.tolist(), lengths, finished.tolist(), strict=True
        )
    ]
