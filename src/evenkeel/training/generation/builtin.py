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
        prompts, prompt_of = _distinct_prompts(requests)
        ids, mask = self._left_padded(prompts)  # shape: (prompts, longest)
        logits = decode(ids, mask, joined([image for each in prompts for image in each.images]))
        if len(prompts) < len(requests):
            decode.select(prompt_of)
            logits, mask = logits[prompt_of], mask[prompt_of]
        answers = _Answers(requests, self._stop_ids)
        rows = torch.arange(len(requests))  # those that are still decoded
        for position in range(answers.longest):
            seeds = [requests[row].seed for row in rows.tolist()]
            drawn, log_probs = next_tokens(logits, sampling, uniforms(seeds, position))
            drawn = drawn.cpu()
            running = answers.write(rows, position, drawn, log_probs.cpu())
            if not running.any():
                break
            drawn = torch.where(running, drawn, self._pad_id)
            if 2 * int(running.sum()) <= len(rows):  # copying the cache pays only now and then
                places = running.nonzero()[:, 0]
                decode.select(places)
                rows, mask, drawn = rows[places], mask[places], drawn[places]
            mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=mask.dtype)], dim=1)
            logits = decode(drawn[:, None], mask)
        return answers.completions()

    def _left_padded(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        width = max(len(request.prompt_ids) for request in requests)
        ids = torch.full((len(requests), width), self._pad_id)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            start = width - len(request.prompt_ids)
            ids[row, start:] = torch.tensor(request.prompt_ids)
            mask[row, start:] = 1
        return ids, mask


def _distinct_prompts(requests: Sequence[Request]) -> tuple[list[Request], Tensor]:
    """One request of each prompt; and for every request which of them has its prompt."""
    numbers: dict[object, int] = {}
    firsts: list[Request] = []
    places = []
    for request in requests:
        prompt = (tuple(request.prompt_ids), tuple(map(id, request.images)))
        if prompt not in numbers:
            numbers[prompt] = len(firsts)
            firsts.append(request)
        places.append(numbers[prompt])
    return firsts, torch.tensor(places)


class _Answers:
    """What has been written of each answer."""

    def __init__(self, requests: Sequence[Request], stop_ids: Tensor) -> None:
        self._limits = torch.tensor([request.max_new_tokens for request in requests])
        self._stop_ids = stop_ids
        self._finished = torch.zeros(len(requests), dtype=torch.bool)
        self._running = ~self._finished
        self._tokens: list[list[int]] = [[] for _ in requests]
        self._log_probs: list[list[float]] = [[] for _ in requests]

    @property
    def longest(self) -> int:
        """Tokens that an answer may have."""
        return int(self._limits.max())

    def write(self, rows: Tensor, position: int, tokens: Tensor, log_probs: Tensor) -> Tensor:
        """Append a token to those of the answers that have not ended; (rows,): which go on."""
        running = self._running[rows]
        written = zip(
            rows.tolist(), running.tolist(), tokens.tolist(), log_probs.tolist(), strict=True
        )
        for row, goes_on, token, log_prob in written:
            if goes_on:
                self._tokens[row].append(token)
                self._log_probs[row].append(log_prob)
        self._finished[rows] |= running & torch.isin(tokens, self._stop_ids)
        self._running = ~self._finished & (self._limits > position + 1)
        return self._running[rows]

    def completions(self) -> list[Completion]:
        """One per request."""
        return [
            Completion(*each)
            for each in zip(self._tokens, self._log_probs, self._finished.tolist(), strict=True)
        ]
