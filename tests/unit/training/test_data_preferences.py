"""Pairs of answers: from files, generated, and in batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Data, Recipe
from evenkeel.training.data.arithmetic_pairs import open_records
from evenkeel.training.data.batches import BatchSource
from evenkeel.training.data.preferences import open_pairs
from evenkeel.training.data.records import Columns, Preference, record_from
from evenkeel.training.data.tokenizers import byte_tokenizer

USER, CHOSEN = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
REJECTED = {"role": "assistant", "content": "go away"}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
        {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED]},
        {"prompt": "hi", "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
        {"messages": [USER, CHOSEN], "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
    ],
)
def test_a_pair_is_read_in_each_of_its_shapes(fields: object) -> None:
    record = record_from(fields, Columns(), "x.jsonl:1")
    assert isinstance(record, Preference)
    assert record.chosen.messages == (USER, CHOSEN)
    assert record.rejected.messages == (USER, REJECTED)


def test_an_answer_without_a_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="'chosen' has no prompt"):
        record_from({"chosen": "a", "rejected": "b"}, Columns(), "x.jsonl:1")


@pytest.mark.parametrize("operations", ["+", "-", "*", "+-*"])
def test_one_slip_is_never_the_right_answer(operations: str) -> None:
    pairs = open_records(Data(), "train", operations=operations, max_operand=30)
    for index in range(0, len(pairs), 7):
        pair = pairs[index]
        right, wrong = (chat.messages[-1]["content"] for chat in (pair.chosen, pair.rejected))
        assert pair.chosen.messages[:-1] == pair.rejected.messages[:-1]
        steps = zip(right.split(" "), wrong.split(" "), strict=True)
        assert sum(a != b for a, b in steps) == 2  # one step and the result
        assert wrong.rpartition("#")[2] != pair.chosen.answer


def test_both_answers_of_a_pair_stay_in_one_micro_batch() -> None:
    recipe = Recipe(data=Data(dataset="arithmetic_pairs", num_train_samples=10))
    samples = open_pairs(recipe, byte_tokenizer(), "train")
    assert len(samples) == 20
    seen: list[int] = []
    for rank in range(2):
        source = BatchSource(
            samples,
            global_batch_size=6,
            micro_batch_size=2,
            dp_rank=rank,
            dp_size=2,
            seed=1,
            shuffle=True,
            max_length=64,
            pad_id=0,
            pack=False,
            group_size=2,
        )
        assert source.num_batches == 2
        for batch in source.global_batch(1):
            rows = [row[0] for row in batch.sample_indices if row]
            assert rows[1::2] == [index + 1 for index in rows[0::2]]
            assert all(index % 2 == 0 for index in rows[0::2])
            seen += rows
    assert sorted(seen) == sorted(source.sample_indices(1))


def test_a_set_without_pairs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    line = {"messages": [USER, CHOSEN]}
    path.write_text((json.dumps(line) + "\n") * 4)
    recipe = Recipe(data=Data(dataset="jsonl", train_path=str(path)))
    with pytest.raises(InputError, match="no pair of answers but a chat") as caught:
        open_pairs(recipe, byte_tokenizer(), "train")
    assert "data.options" in str(caught.value.fix)
    with pytest.raises(InputError, match="running text"):
        open_pairs(Recipe(data=Data(dataset="english_text")), byte_tokenizer(), "train")
