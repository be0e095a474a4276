"""Bugs between samples and the tensors of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mutants.registry import Patch, mutant

NOT_TRAINED = -100


def _change_batch(patch: Patch, change: Callable[[Any, Any], Any]) -> None:
    """Let ``change(batch source, micro-batch)`` make every micro-batch."""

    def make(original: Any) -> Any:
        def micro_batch(self: Any, rows: Any) -> Any:
            return change(self, original(self, rows))

        return micro_batch

    patch("data.batches:BatchSource._micro_batch", make)


def _with_labels(batch: Any, labels: Any) -> Any:
    trained = int((labels != NOT_TRAINED).sum())
    return replace(batch, labels=labels, num_trained_tokens=trained)


@mutant(
    "labels-shifted-twice",
    breaks="a position has to predict the token after the next one",
    seen="class: data set and model both shift, as with models whose forward shifts labels itself",
    needs=("sft",),
)
def _labels_shifted_twice(patch: Patch) -> None:
    def change(_: Any, batch: Any) -> Any:
        labels = batch.labels.clone()
        labels[:, :-1] = batch.labels[:, 1:]
        labels[:, -1] = NOT_TRAINED
        return _with_labels(batch, labels)

    _change_batch(patch, change)


@mutant(
    "padding-trained",
    breaks="padding counts as text that has to be predicted",
    seen="class: labels copied from input ids, padding not replaced by the ignored label",
    needs=("sft",),
)
def _padding_trained(patch: Patch) -> None:
    def change(source: Any, batch: Any) -> Any:
        padding = batch.attention_mask == 0
        return _with_labels(batch, batch.labels.masked_fill(padding, source._pad_id))

    _change_batch(patch, change)


@mutant(
    "position-ids-not-reset",
    breaks="positions run on through a packed row instead of starting anew with each sample",
    seen="class: packing without position ids, fixed in several fine-tuning libraries since 2023",
    needs=("packing",),
)
def _positions_not_reset(patch: Patch) -> None:
    import torch

    def change(_: Any, batch: Any) -> Any:
        positions = torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids)
        return replace(batch, position_ids=positions.clone())

    _change_batch(patch, change)


@mutant(
    "attention-leaks-over-packed-samples",
    breaks="a sample sees the samples packed before it in its row",
    seen="class: packing with a plain causal mask, reported against several fine-tuning libraries",
    needs=("packing",),
)
def _attention_leaks(patch: Patch) -> None:
    import torch

    patch(
        "attention:block_diagonal_causal_mask",
        lambda original: lambda ids: original(torch.ones_like(ids)),
    )


@mutant(
    "attention-sees-the-future",
    breaks="within a sample every token sees all others, those to be predicted among them",
    seen="class: a custom attention mask that drops the causal part",
    needs=("packing",),
)
def _attention_sees_the_future(patch: Patch) -> None:
    patch(
        "attention:block_diagonal_causal_mask",
        lambda _: lambda ids: ids[:, None, :, None] == ids[:, None, None, :],
    )


@mutant(
    "rows-cut-short",
    breaks="samples are cut at three quarters of the longest allowed row",
    seen="class: a default maximal length that wins over the recipe's",
    needs=("pretrain",),
)
def _rows_cut_short(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def create(self: Any, samples: Any, **settings: Any) -> None:
            settings["max_length"] = settings["max_length"] * 3 // 4
            original(self, samples, **settings)

        return create

    patch("data.batches:BatchSource.__init__", make)


@mutant(
    "same-shard-on-every-rank",
    breaks="all data-parallel ranks train the same share of the global batch",
    seen="class: a data loader without its distributed sampler",
    needs=("dp",),
)
def _same_shard(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def create(self: Any, samples: Any, **settings: Any) -> None:
            original(self, samples, **{**settings, "dp_rank": 0})

        return create

    patch("data.batches:BatchSource.__init__", make)
