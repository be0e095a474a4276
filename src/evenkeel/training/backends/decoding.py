"""One token after the other: the model as a function from tokens to the next token's logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from evenkeel.training import vision_model
from evenkeel.training.data.batches import LENGTH_MULTIPLE, NOT_TRAINED, MicroBatch

NO_IMAGES: Mapping[str, Tensor] = MappingProxyType({})


class Decoder(Protocol):
    """Rows of one generation, padded on the left."""

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, images: Mapping[str, Tensor] = NO_IMAGES
    ) -> Tensor:
        """(batch, vocabulary), fp32: logits of the token that follows.

        Args:
            input_ids: (batch, new) tokens that were not given before.
            attention_mask: (batch, all so far), 1 on tokens, 0 on padding.
            images: of the new tokens, as in ``MicroBatch``.
        """
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, (new batch,) indices; one may come several times."""
        ...


class CachingDecoder:
    """Keeps every layer's keys and values, so that a token costs one token's work."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        from evenkeel.training.backends.key_value_cache import cache_argument, growing_cache

        self._model, self._device = model, device
        self._cache, self._cache_argument = growing_cache(), cache_argument(model)
        self._offsets: Tensor | int = 0

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, images: Mapping[str, Tensor] = NO_IMAGES
    ) -> Tensor:
        """See ``Decoder``."""
        mask = attention_mask.to(self._device)
        new_ids = input_ids.to(self._device)
        inputs = vision_model.forward_inputs(
            self._model, new_ids, {name: value.to(self._device) for name, value in images.items()}
        )
        lets_model_count = bool(images) and vision_model.makes_positions(self._model)
        if not lets_model_count:
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -new_ids.shape[1] :]
            inputs["position_ids"] = positions + self._offsets
        is_padded = bool(images) or not bool(attention_mask.all())
        output = self._model(
            input_ids=new_ids,
            attention_mask=mask if is_padded else None,
            **inputs,
            **{self._cache_argument: self._cache},
            use_cache=True,
            logits_to_keep=1,
        )
        if lets_model_count:
            self._offsets = vision_model.position_offsets(self._model)
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def select(self, rows: Tensor) -> None:
        """See ``Decoder``."""
        rows = rows.to(self._device)
        self._cache.batch_select_indices(rows)
        if isinstance(self._offsets, Tensor):
            self._offsets = self._offsets[rows]


class RecomputingDecoder:
    """Runs the whole rows again for each token: slow, and right wherever a model can be read."""

    def __init__(self, last_logits: Callable[[MicroBatch], Tensor]) -> None:
        self._last_logits = last_logits
        self._ids = torch.empty(0, 0, dtype=torch.int64)

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, images: Mapping[str, Tensor] = NO_IMAGES
    ) -> Tensor:
        """See ``Decoder``."""
        new = input_ids.cpu()
        assert not images  # vision_model.check_recipe refuses what would get here
        self._ids = torch.cat([self._ids, new], dim=1) if self._ids.numel() else new
        return self._last_logits(left_padded_rows(self._ids, attention_mask.cpu()))

    def select(self, rows: Tensor) -> None:
        """See ``Decoder``."""
        self._ids = self._ids[rows]


def left_padded_rows(ids: Tensor, mask: Tensor) -> MicroBatch:
    """Rows as packed ones whose first segment, the padding, nobody looks at.

    Args:
        ids: (batch, seq).
        mask: (batch, seq), 1 on tokens.
    """
    extra = -ids.shape[1] % LENGTH_MULTIPLE  # on the left, so that the last position stays last
    ids, mask = pad(ids, (extra, 0)), pad(mask, (extra, 0))
    return MicroBatch(
        input_ids=ids,
        labels=torch.full_like(ids, NOT_TRAINED),
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        attention_mask=mask,
        segment_ids=mask,
        num_trained_tokens=0,
        sample_indices=tuple(() for _ in ids),
    )


def last_logits_by(
    read: Callable[[Sequence[MicroBatch], Any], list[dict[str, Tensor]]], batch: MicroBatch
) -> Tensor:
    """(batch, vocabulary): by ``Backend.read``; log probabilities are logits of their own."""
    (found,) = read([batch], lambda output, _: {"last": output.log_probs()[:, -1]})
    return found["last"]
