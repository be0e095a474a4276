from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Data, Policy, Recipe
from evenkeel.training.data.arithmetic import Arithmetic, ExerciseSpace, Operation
from evenkeel.training.data.hash_order import permutation, shuffled_index
from evenkeel.training.data.records import Chat, Text
from evenkeel.training.data.registry import open_records
from evenkeel.training.data.samples import EncodedRecords, TokenWindows, open_dataset
from evenkeel.training.data.tokenizers import byte_tokenizer

operations = st.lists(st.sampled_from(Operation), min_size=1, unique=True)


def arithmetic(split: str, **data: Any) -> Arithmetic:
    records = open_records(Data(dataset="arithmetic", **data), split)
    assert isinstance(records, Arithmetic)
    return records


@given(st.integers(1, 12), operations)
def test_every_exercise_has_one_number(max_operand: int, chosen: list[Operation]) -> None:
    space = ExerciseSpace(max_operand, chosen)
    exercises = [space[number] for number in range(len(space))]
    assert len(set(exercises)) == len(space)
    for exercise in exercises:
        assert exercise.result >= 0
        assert 0 <= exercise.right <= max(max_operand, 9)
        assert 0 <= exercise.left <= max_operand


@given(st.integers(1, 9999), operations, st.integers(0, 10**9))
def test_reasoning_steps_are_true_and_end_in_the_result(
    max_operand: int, chosen: list[Operation], number: int
) -> None:
    space = ExerciseSpace(max_operand, chosen)
    exercise = space[number % len(space)]
    steps = [step.split("=") for step in exercise.reasoning.split(" ")]
    assert all(eval(left) == int(right) for left, right in steps)  # noqa: S307 - our own digits
    digits = [right[-1] for _, right in steps[:-1]] + [steps[-1][1][::-1]]
    assert int("".join(digits)[::-1]) == exercise.result


def test_splits_share_no_exercise() -> None:
    options = {"max_operand": 12, "operations": "+-*"}
    data = {"options": options, "num_val_samples": 39}
    train, val = arithmetic("train", **data), arithmetic("val", **data)
    questions = [{split.exercise(i).question for i in range(len(split))} for split in (train, val)]
    assert len(questions[0]) == len(train)
    assert len(questions[1]) == len(val) == 39
    assert not questions[0] & questions[1]


def test_arithmetic_reads_as_documented() -> None:
    chat = arithmetic("train")[0]
    assert [message["content"] for message in chat.messages] == [
        "82+45=?",
        "2+5=7 8+4=12 #127",
    ]
    assert len(arithmetic("val")) == 256
    assert len(arithmetic("train", num_train_samples=70)) == 70


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("2+5=7 8+4=12 #127", True),
        ("#127", True),
        ("# 127\n", True),
        ("127", False),
        ("#127 #128", False),
        ("#1270", False),
        ("#-127", False),
        ("", False),
    ],
)
def test_verify_judges_the_final_answer(answer: str, right: bool) -> None:
    train = arithmetic("train")
    assert train.verify(answer, train[0]) is right
    samples = EncodedRecords(train, lambda record: None)  # type: ignore[arg-type, return-value]
    assert samples.verifiable
    assert samples.verify(answer, 0) is right


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"options": {"max_operant": 9}}, "no such option .did you mean 'max_operand'"),
        ({"options": {"max_operand": 0}}, "max_operand is 0"),
        ({"options": {"operations": "+/"}}, "operations has '/'"),
        ({"options": {"operations": ""}}, "name one or more"),
        ({"num_train_samples": 9001}, "there are 9000 different train exercises"),
        ({"num_train_samples": 0}, "num_train_samples is 0"),
        ({"dataset": "arithmetics"}, "did you mean 'arithmetic'"),
    ],
)
def test_wrong_settings_are_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_records(Data(**({"dataset": "arithmetic"} | data)), "train")


@given(st.integers(1, 300), st.integers(0, 99))
def test_shuffles_are_permutations(size: int, seed: int) -> None:
    everything = list(range(size))
    assert sorted(permutation(size, seed).tolist()) == everything
    assert sorted(shuffled_index(index, size, seed) for index in everything) == everything


def test_english_text_is_cut_into_windows_of_both_splits() -> None:
    recipe = Recipe(
        policy=Policy(max_total_sequence_length=64),
        data=Data(dataset="english_text", options={"docstrings": False}, num_val_samples=9),
    )
    tokenizer = byte_tokenizer()
    train, val = (open_dataset(recipe, tokenizer, split) for split in ("train", "val"))
    assert isinstance(train, TokenWindows)
    assert len(train) > 5000
    assert len(val) == 9
    assert train[0].input_ids[-1] == train[1].input_ids[0]
    assert len(train[len(train) - 1].input_ids) == 65
    assert "the" in tokenizer.decode(train[7].input_ids + train[8].input_ids)
    with pytest.raises(InputError, match="windows of 64 tokens were asked for"):
        recipe.data.num_train_samples = 10**6
        open_dataset(recipe, tokenizer, "train")


def write_lines(path: Path, *lines: object) -> str:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return str(path)


def jsonl(path: str, split: str = "train", **data: Any) -> list[Chat | Text]:
    records = open_records(Data(dataset="jsonl", train_path=path, **data), split)
    return [records[index] for index in range(len(records))]  # type: ignore[index, arg-type]


def test_jsonl_reads_three_shapes(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "ä"}, {"role": "assistant", "content": "b"}]
    path = write_lines(
        tmp_path / "a.jsonl",
        {"messages": turns},
        "",
        {"prompt": "1+1", "response": "2", "answer": "2"},
        {"text": "so it goes"},
    )
    exchange = ({"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"})
    assert jsonl(path, val_path=path) == [
        Chat(tuple(turns), None, f"{path}:1"),
        Chat(exchange, "2", f"{path}:3"),
        Text("so it goes", f"{path}:4"),
    ]
    assert len(jsonl(path, val_path=path, num_train_samples=2)) == 2
    renamed = write_lines(tmp_path / "b.jsonl", {"question": "1+1", "reply": "2"})
    options = {"prompt": "question", "response": "reply"}
    assert jsonl(path, "val", val_path=renamed, options=options)[0].messages == exchange


def test_jsonl_holds_out_what_it_does_not_train(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", *({"text": str(n)} for n in range(50)))
    train, val = jsonl(path), jsonl(path, "val")
    assert len(val) == 5
    assert sorted(int(record.text) for record in train + val) == list(range(50))
    with pytest.raises(InputError, match="50 of 50 samples would be held out"):
        jsonl(path, num_val_samples=50)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 1}", r"a\.jsonl:2:2: not JSON"),
        ("[1]", r"a\.jsonl:2: expected an object, found a list"),
        ({"txt": "a"}, r"a\.jsonl:2: no text in it; its fields are 'txt' .did you mean 'text'"),
        ({"prompt": "a"}, "its fields are 'prompt'"),
        ({"text": None}, "'text' is not text but nothing"),
        ({"messages": []}, "not a list of messages but an empty list"),
        ({"messages": [{"role": "asistant", "content": "a"}]}, "did you mean 'assistant'"),
        ({"messages": [{"role": "user"}]}, "content of message 1 of 1 is not text but nothing"),
        ({"text": "\ud800"}, "half of a surrogate pair"),
        ({"messages": ["hi"]}, "message 1 of 1 is not an object but text"),
    ],
)
def test_a_wrong_line_is_named_at_once(tmp_path: Path, line: object, message: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "fine"}, line, {"text": "fine"})
    with pytest.raises(InputError, match=message):
        jsonl(path)


def test_jsonl_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: cannot read the samples"):
        jsonl(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="the file has no samples"):
        jsonl(write_lines(tmp_path / "empty.jsonl", ""))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    with pytest.raises(InputError, match=r"latin\.jsonl:1: not UTF-8: byte 11 of the line is 0xe9"):
        jsonl(str(tmp_path / "latin.jsonl"))
    with pytest.raises(InputError, match=r"data\.train_path is not set"):
        open_records(Data(dataset="jsonl"), "train")


def huggingface(split: str, **data: Any) -> list[Any]:
    records = open_records(Data(dataset="huggingface", **data), split)
    return [records[index] for index in range(len(records))]  # type: ignore[index, arg-type]


def test_huggingface_reads_saved_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"question": f"{n}?", "answer": f"{n}!"} for n in range(20)]
    whole = datasets.Dataset.from_list(rows)
    whole.save_to_disk(str(tmp_path / "one"))
    parts = {"train": whole.select(range(15)), "test": whole.select(range(15, 20))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "two"))
    options = {"prompt": "question", "response": "answer"}

    one = {"train_path": str(tmp_path / "one"), "options": options}
    train, val = huggingface("train", **one), huggingface("val", **one)
    assert (len(train), len(val)) == (18, 2)
    two = {"train_path": str(tmp_path / "two"), "val_split": "test", "options": options}
    assert [chat.messages[0]["content"] for chat in huggingface("val", **two)][:2] == ["15?", "16?"]
    assert len(huggingface("train", num_train_samples=4, **two)) == 4
    assert train[0].messages[1] == {"role": "assistant", "content": "0!"}
    with pytest.raises(InputError, match=r"two\[train\] row 1: no text in it"):
        huggingface("train", train_path=str(tmp_path / "two"), val_split="test")


def test_huggingface_reads_a_folder_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    write_lines(folder / "train.jsonl", {"text": "a"}, {"text": "b"})
    data = {"train_path": str(folder), "val_split": "validation"}
    assert [record.text for record in huggingface("train", **data)] == ["a", "b"]
    with pytest.raises(InputError, match="cannot open the split 'validation' of"):
        huggingface("val", **data)
