from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Data, Policy, Recipe
from evenkeel.training.data.batches import BatchSource
from evenkeel.training.data.order import BLEND_BLOCK, BlendOrder, EpochOrder, shares
from evenkeel.training.data.registry import open_records
from evenkeel.training.data.samples import BlendedSamples, open_dataset
from evenkeel.training.data.tokenizers import byte_tokenizer

weights = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)
ADDITION = {"dataset": "arithmetic", "weight": 3, "num_train_samples": 30, "num_val_samples": 5}
TEXT = {"dataset": "english_text", "weight": 1.0, "num_train_samples": 7, "num_val_samples": 2}


def blend(*parts: Any, **data: Any) -> Data:
    return Data(dataset="blend", options={"parts": list(parts)}, **data)


@given(weights, st.integers(1, 5000), st.integers(0, 99))
def test_every_prefix_holds_the_shares(weights: list[float], count: int, seed: int) -> None:
    sizes = [7 + number for number in range(len(weights))]
    bounds = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    drawn = BlendOrder(sizes, weights, seed, True).indices(0, count)
    counts = Counter(next(n for n, end in enumerate(bounds) if index < end) for index in drawn)
    for number, part in enumerate(shares(weights, BLEND_BLOCK)):
        assert abs(counts[number] - count * part / BLEND_BLOCK) <= len(weights)


@given(weights, st.integers(1, 300), st.booleans())
def test_each_part_runs_in_epochs_of_its_own(
    weights: list[float], count: int, shuffle: bool
) -> None:
    sizes = [3 + number for number in range(len(weights))]
    drawn = BlendOrder(sizes, weights, 1, shuffle).indices(0, count)
    for number, size in enumerate(sizes):
        offset = sum(sizes[:number])
        mine = [index - offset for index in drawn if offset <= index < offset + size]
        for epoch in range(len(mine) // size):
            assert sorted(mine[epoch * size :][:size]) == list(range(size))
        assert shuffle or mine == [place % size for place in range(len(mine))]


@given(weights, st.integers(0, 20_000), st.integers(1, 50))
def test_a_blend_is_read_from_any_position(weights: list[float], start: int, count: int) -> None:
    order = BlendOrder([5] * len(weights), weights, 3, True)
    one_by_one = [order.indices(start + place, 1)[0] for place in range(count)]
    assert BlendOrder([5] * len(weights), weights, 3, True).indices(start, count) == one_by_one


@given(weights.filter(len), st.integers(5, 5000))
def test_shares_are_whole_and_complete(weights: list[float], total: int) -> None:
    parts = shares(weights, total)
    assert sum(parts) == total
    assert min(parts) >= 1
    for weight, part in zip(weights, parts, strict=True):
        exact = weight * total / sum(weights)
        assert part > exact - len(weights)
        assert part < max(exact, 1) + 1


def test_one_set_alone_is_ordered_by_epochs() -> None:
    assert EpochOrder(3, False).indices(2, 5) == [2, 0, 1, 2, 0]


def test_sets_of_different_kinds_blend() -> None:
    recipe = Recipe(policy=Policy(max_total_sequence_length=64), data=blend(ADDITION, TEXT))
    tokenizer = byte_tokenizer()
    train, val = (open_dataset(recipe, tokenizer, split) for split in ("train", "val"))
    assert isinstance(train, BlendedSamples)
    assert (train.sizes, train.weights, len(val)) == ([30, 7], [3.0, 1.0], 7)
    assert "=?" in tokenizer.decode(train[29].input_ids)
    assert len(train[30].input_ids) == len(train[36].input_ids) == 65
    layout = {"micro_batch_size": 4, "dp_rank": 0, "dp_size": 1, "seed": 0, "shuffle": True}
    source = BatchSource(
        train, global_batch_size=16, max_length=64, pad_id=256, pack=False, **layout
    )
    for step in (1, 2, 400):
        rows = [row for batch in source.global_batch(step) for row in batch.sample_indices]
        assert sum(index < 30 for (index,) in rows) == 12
    with pytest.raises(IndexError):
        val[7]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (blend(), r"data\.options\.parts is \[\]"),
        (Data(dataset="blend"), r"data\.options\.parts is None"),
        (blend("arithmetic"), r"parts\[0\] is 'arithmetic'; it must be a mapping"),
        (blend(ADDITION | {"wieght": 1}), r"parts\[0\].wieght: no such key .did you mean 'weight'"),
        (blend(ADDITION | {"weight": 0}), r"parts\[0\]\.weight is 0; it must be a number above 0"),
        (blend(ADDITION | {"weight": "1"}), r"parts\[0\]\.weight is '1'"),
        (blend({"weight": 1}), r"parts\[0\] names no dataset"),
        (blend(ADDITION | {"num_val_samples": "5"}), "'5'; it must be a whole number"),
        (blend(ADDITION, TEXT | {"dataset": "x"}), r"parts\[1\]: data\.dataset is 'x'"),
        (blend(ADDITION, blend(TEXT).__dict__ | {"weight": 1}), r"parts\[1\]"),
        (blend(ADDITION, num_train_samples=9), "num_train_samples does not apply to a blend"),
    ],
)
def test_wrong_blends_are_named(data: Data, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_records(data, "train")
