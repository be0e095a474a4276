from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.training.data.batches import NOT_TRAINED, BatchSource, MicroBatch, Sample
from evenkeel.training.data.packing import by_token_budget, first_fit_decreasing

PAD = 9999
MAX_LENGTH = 24


@st.composite
def sample_sets(draw: st.DrawFn) -> list[Sample]:
    """Samples whose tokens say where they come from: 100·(index + 1) + place in the sample."""
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=24))
    samples = []
    for index, length in enumerate(lengths):
        ids = [100 * (index + 1) + place for place in range(length)]
        samples.append(Sample(ids, [draw(st.integers(0, 1)) for _ in ids]))
    return samples


layouts = st.fixed_dictionaries(
    {
        "global_batch_size": st.integers(1, 12),
        "micro_batch_size": st.integers(1, 5),
        "dp_size": st.integers(1, 4),
        "seed": st.integers(0, 2**32),
        "shuffle": st.booleans(),
        "pack": st.booleans(),
        "max_micro_batch_tokens": st.none() | st.integers(1, 100),
    }
)


def sources(samples: list[Sample], **layout: int) -> list[BatchSource]:
    """One source per rank."""
    fixed = {"max_length": MAX_LENGTH, "pad_id": PAD}
    return [
        BatchSource(samples, dp_rank=rank, **fixed, **layout)  # type: ignore[arg-type]
        for rank in range(layout["dp_size"])
    ]


def pairs(batches: list[MicroBatch]) -> list[tuple[int, int]]:
    """Every (input token, label) that is trained, sorted."""
    found = []
    for batch in batches:
        trained = batch.labels != NOT_TRAINED
        inputs, labels = batch.input_ids[trained].tolist(), batch.labels[trained].tolist()
        found += list(zip(inputs, labels, strict=True))
        assert batch.num_trained_tokens == len(labels)
    return sorted(found)


def expected_pairs(samples: list[Sample], indices: list[int]) -> list[tuple[int, int]]:
    """What a step over these samples has to train."""
    found = []
    for index in indices:
        ids, mask = samples[index].input_ids, samples[index].loss_mask
        for place in range(min(len(ids) - 1, MAX_LENGTH)):
            if mask[place + 1]:
                found.append((ids[place], ids[place + 1]))
    return sorted(found)


@given(sample_sets(), layouts, st.integers(1, 50))
def test_ranks_together_train_each_sample_of_the_step_once(samples, layout, step) -> None:
    ranks = [source.global_batch(step) for source in sources(samples, **layout)]
    assert len({len(batches) for batches in ranks}) == 1
    shapes = {tuple(b.input_ids.shape) for batches in ranks for b in batches}
    if (budget := layout["max_micro_batch_tokens"]) is None:
        assert {rows for rows, _ in shapes} == {layout["micro_batch_size"]}
    else:
        assert all(rows == 1 or rows * width <= budget for rows, width in shapes)
    indices = sources(samples, **layout)[0].sample_indices(step)
    assert pairs([b for batches in ranks for b in batches]) == expected_pairs(samples, indices)
    seen = [i for batches in ranks for b in batches for row in b.sample_indices for i in row]
    assert sorted(seen) == sorted(indices)


@given(sample_sets(), layouts, layouts, st.integers(1, 30))
def test_layout_does_not_choose_the_samples(samples, one, other, step) -> None:
    other |= {key: one[key] for key in ("global_batch_size", "seed", "shuffle")}
    (first, *_), (second, *_) = sources(samples, **one), sources(samples, **other)
    assert first.sample_indices(step) == second.sample_indices(step)


@given(sample_sets(), layouts)
def test_an_epoch_has_every_sample_once(samples, layout) -> None:
    size = layout["global_batch_size"]
    source = sources(samples, **layout)[0]
    stream = [i for step in range(1, 3 * len(samples) + 2) for i in source.sample_indices(step)]
    for epoch in range(min(3, len(stream) // len(samples))):
        drawn = stream[epoch * len(samples) : (epoch + 1) * len(samples)]
        assert sorted(drawn) == list(range(len(samples)))
        assert layout["shuffle"] or drawn == list(range(len(samples)))
    assert all(len(source.sample_indices(step)) == size for step in (1, 2, 7))


@given(sample_sets(), layouts, st.integers(1, 20))
def test_a_step_is_the_same_whatever_was_read_before(samples, layout, step) -> None:
    used, fresh = sources(samples, **layout)[0], sources(samples, **layout)[0]
    for earlier in range(1, step):
        used.global_batch(earlier)
    for old, new in zip(used.global_batch(step), fresh.global_batch(step), strict=True):
        assert torch.equal(old.input_ids, new.input_ids)
        assert torch.equal(old.labels, new.labels)


@given(sample_sets(), layouts)
def test_one_pass_has_every_sample_once_on_some_rank(samples, layout) -> None:
    passes = [list(source.one_pass()) for source in sources(samples, **layout)]
    assert {len(batches) for batches in passes} == {sources(samples, **layout)[0].num_batches}
    for rounds in zip(*passes, strict=True):
        assert len({len(batches) for batches in rounds}) == 1
    everything = [b for batches in passes for one in batches for b in one]
    assert pairs(everything) == expected_pairs(samples, list(range(len(samples))))


@given(sample_sets(), layouts, st.integers(1, 9))
def test_rows_are_laid_out_as_attention_expects(samples, layout, step) -> None:
    for source in sources(samples, **layout):
        for batch in source.global_batch(step):
            rows, width = batch.input_ids.shape
            assert width <= MAX_LENGTH
            for tensor in (batch.labels, batch.position_ids, batch.attention_mask):
                assert tensor.shape == (rows, width)
                assert tensor.dtype == torch.int64
            assert (batch.attention_mask[:, 0] == 1).all()
            assert (batch.attention_mask.diff(dim=1) <= 0).all()
            filled = batch.input_ids != PAD
            assert torch.equal(filled | (batch.labels != NOT_TRAINED), filled)
            assert (batch.segment_ids is None) == (not layout["pack"])
            origin, place = batch.input_ids // 100, batch.input_ids % 100
            assert torch.equal(batch.position_ids[filled], place[filled])
            if batch.segment_ids is not None:
                check_segments(origin, batch.segment_ids, filled)


def check_segments(origin: torch.Tensor, segments: torch.Tensor, filled: torch.Tensor) -> None:
    """Within a row, no two samples share a segment number."""
    for row in range(len(origin)):
        here = filled[row]
        both = set(zip(origin[row][here].tolist(), segments[row][here].tolist(), strict=True))
        assert len(both) == len({segment for _, segment in both})
        if here.any():
            assert (segments[row][~here] == 0).all()


@given(st.lists(st.integers(1, 50), max_size=40))
def test_packing_conserves_and_is_dense(lengths: list[int]) -> None:
    rows = first_fit_decreasing(lengths, 50)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in row) for row in rows]
    assert all(load <= 50 for load in loads)
    # were two rows to fit into one, the second would not have been opened
    assert all(a + b > 50 for k, a in enumerate(loads) for b in loads[k + 1 :])


def test_packing_saves_rows() -> None:
    samples = [Sample(list(range(9)), [1] * 9) for _ in range(12)]
    layout = {"global_batch_size": 12, "micro_batch_size": 1, "dp_size": 1, "seed": 0}
    rows = {
        pack: len(sources(samples, shuffle=False, pack=pack, **layout)[0].global_batch(1))
        for pack in (False, True)
    }
    assert rows == {False: 12, True: 4}


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200), st.integers(1, 5))
def test_a_token_budget_holds_and_ranks_share_alike(
    widths: list[int], budget: int, multiple: int
) -> None:
    plan = by_token_budget(widths, budget, multiple)
    assert sorted(row for batch in plan for row in batch) == list(range(len(widths)))
    assert len(plan) % multiple == 0
    assert all(len(batch) < 2 or len(batch) * widths[batch[0]] <= budget for batch in plan)
    if any(not batch for batch in plan):
        assert max(map(len, plan)) == 1


def test_a_token_budget_puts_like_lengths_together() -> None:
    assert by_token_budget([8, 32, 8, 32, 8, 8], 64, 1) == [[1, 3], [0, 2, 4, 5]]
    assert by_token_budget([8, 32, 8, 32, 8, 8], 64, 3) == [[1, 3], [0, 2], [4, 5]]


def test_epochs_differ_and_seeds_differ() -> None:
    samples = [Sample([1, 2], [1, 1])] * 50
    layout = {"global_batch_size": 50, "micro_batch_size": 1, "dp_size": 1, "shuffle": True}
    (one,), (two,) = (sources(samples, seed=seed, pack=False, **layout) for seed in (1, 2))
    assert one.sample_indices(1) != one.sample_indices(2)
    assert one.sample_indices(1) != two.sample_indices(1)


def test_the_order_is_the_same_on_every_version_of_every_library() -> None:
    samples = [Sample([1, 2], [1, 1])] * 8
    layout = {"global_batch_size": 8, "micro_batch_size": 1, "dp_size": 1, "shuffle": True}
    (source,) = sources(samples, seed=42, pack=False, **layout)
    assert [source.sample_indices(step) for step in (1, 2)] == [
        [7, 3, 6, 1, 5, 4, 0, 2],
        [2, 3, 4, 1, 7, 5, 6, 0],
    ]


@pytest.mark.parametrize("name", ["global_batch_size", "micro_batch_size"])
def test_sizes_below_one_are_refused(name: str) -> None:
    layout = {"global_batch_size": 2, "micro_batch_size": 1, "dp_size": 1, "seed": 0} | {name: 0}
    with pytest.raises(InputError, match=f"{name} is 0"):
        sources([Sample([1, 2], [1, 1])], shuffle=True, pack=False, **layout)
    with pytest.raises(InputError, match="no samples"):
        sources([], shuffle=True, pack=False, **{**layout, name: 1})
