"""Images of records: the built-in sets, files of the user's, and where their tokens stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Data, Policy, Recipe, Tokenizer, Vision
from evenkeel.training.data.batches import NOT_TRAINED, BatchSource, open_dataset
from evenkeel.training.data.chat_mask import Encoder
from evenkeel.training.data.digits import Digits
from evenkeel.training.data.image_fields import with_images
from evenkeel.training.data.image_processors import FixedGrid
from evenkeel.training.data.records import Chat, Columns, record_from
from evenkeel.training.data.registry import open_records
from evenkeel.training.data.shapes import COLOURS, Scenes, Shape, outline
from evenkeel.training.data.tokenizers import byte_tokenizer
from evenkeel.training.data.vision_chat import VisionEncoder

IMAGE_ID = 265
LLAVA = {
    "model_type": "llava",
    "image_token_index": IMAGE_ID,
    "text_config": {"model_type": "llama", "vocab_size": 272, "hidden_size": 32},
    "vision_config": {"model_type": "clip_vision_model", "patch_size": 4, "image_size": 8},
}


def records(name: str, split: str = "train", **data: Any) -> Any:
    return open_records(Data(dataset=name, **data), split)


def pixels(chat: Chat) -> np.ndarray[Any, Any]:
    (image,) = chat.images
    return np.asarray(image.load())


def test_digits_are_real_and_disjoint() -> None:
    train, val = records("digits"), records("digits", "val")
    assert isinstance(train, Digits)
    assert (len(train), len(val)) == (1500, 297)
    seen = [{pixels(split[i]).tobytes() for i in range(len(split))} for split in (train, val)]
    assert not seen[0] & seen[1]
    assert {train[index].answer for index in range(100)} == set("0123456789")
    chat = train[0]
    assert pixels(chat).shape == (8, 8, 3)
    assert pixels(records("digits", options={"enlarge": 3})[0]).shape == (24, 24, 3)
    assert train.verify(f" {chat.answer}\n", chat)
    assert not train.verify(f"{chat.answer}{chat.answer}", chat)
    assert not train.verify("", chat)


def seen_cells(image: np.ndarray[Any, Any], side: int) -> list[tuple[str, Shape] | None]:
    """What the pixels alone show."""
    size = image.shape[0] // side
    found: list[tuple[str, Shape] | None] = []
    for row in range(side):
        for column in range(side):
            cell = image[row * size : (row + 1) * size, column * size : (column + 1) * size]
            kinds = [
                (colour, shape)
                for colour, rgb in COLOURS.items()
                for shape in Shape
                if np.array_equal((cell == rgb).all(axis=-1), outline(shape, size))
            ]
            assert len(kinds) <= 1
            found.append(kinds[0] if kinds else None)
    return found


def answer_of(question: str, cells: list[tuple[str, Shape] | None], side: int) -> str:
    words = question.rstrip("?").split()
    held = [cell for cell in cells if cell]
    if question.startswith("How many"):
        return str(sum(shape == words[2][:-1] for _, shape in held))
    if question.startswith("What colour"):
        (colour,) = [colour for colour, shape in held if shape == words[-1]]
        return colour
    (place,) = [place for place, cell in enumerate(cells) if cell == (words[3], words[4])]
    rows = ("top", "bottom") if side == 2 else ("top", "middle", "bottom")
    columns = ("left", "right") if side == 2 else ("left", "middle", "right")
    return f"{rows[place // side]} {columns[place % side]}"


@pytest.mark.parametrize(("side", "cell_size"), [(2, 8), (3, 9), (2, 17)])
def test_answers_about_scenes_follow_from_their_pixels(side: int, cell_size: int) -> None:
    scenes = records("shapes", options={"side": side, "cell_size": cell_size})
    starts = set()
    for index in range(150):
        chat = scenes[index]
        question = chat.messages[0]["content"][1]["text"]
        starts.add(question.split()[0])
        expected = answer_of(question, seen_cells(pixels(chat), side), side)
        assert chat.answer == chat.messages[1]["content"] == expected
        assert scenes.verify(expected.upper() + ".", chat)
        assert not scenes.verify(expected + " x", chat)
    assert starts == {"How", "What", "Where"}


def test_scenes_of_the_splits_are_disjoint() -> None:
    train = records("shapes", num_train_samples=5000)
    val = records("shapes", "val", num_val_samples=1000)
    assert isinstance(train, Scenes)
    numbers = [{split.number(i) for i in range(len(split))} for split in (train, val)]
    assert [len(found) for found in numbers] == [5000, 1000]
    assert not numbers[0] & numbers[1]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("digits", {"num_train_samples": 1501}, "the train split has 1500 images"),
        ("digits", {"options": {"enlarge": 0}}, "enlarge is 0; it must be 1 to 64"),
        ("shapes", {"options": {"side": 4}}, "side is 4; it must be 2 or 3"),
        ("shapes", {"options": {"cell_size": 7}}, "cell_size is 7; it must be 8 to 512"),
        ("shapes", {"options": {"questions": ["color"]}}, "did you mean 'colour'"),
        ("shapes", {"num_train_samples": 10**6}, "but there are 8999 train scenes"),
    ],
)
def test_wrong_options(name: str, data: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        records(name, **data)


def saved(folder: Path, *names: str) -> None:
    for brightness, name in enumerate(names):
        Image.new("RGB", (8, 8), (brightness, 0, 0)).save(folder / name)


def opened(folder: Path, *lines: dict[str, Any]) -> Any:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return records("jsonl", train_path=str(path), val_path=str(path))


def test_every_way_to_name_images(tmp_path: Path) -> None:
    saved(tmp_path, "a.png", "b.png")
    image, text = {"type": "image"}, {"type": "text", "text": "What?"}
    answer = {"role": "assistant", "content": "It."}

    def turns(*parts: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": list(parts)}, answer]

    found = opened(
        tmp_path,
        {"image": "a.png", "prompt": "What?", "response": "It."},
        {"images": ["a.png", "b.png"], "prompt": "<image>then<image>What?", "response": "It."},
        {"messages": turns({**image, "path": "b.png"}, text)},
        {"images": ["b.png"], "messages": turns(text, {**image, "text": None})},
        {"prompt": "no <image> here", "response": "It."},
    )
    contents = [found[index].messages[0]["content"] for index in range(5)]
    between = {"type": "text", "text": "then"}
    assert contents == [
        [image, text],
        [image, between, image, text],
        [image, text],
        [text, image],
        "no <image> here",
    ]
    reds = [[int(np.asarray(i.load())[0, 0, 0]) for i in found[n].images] for n in range(5)]
    assert reds == [[0], [0, 1], [1], [1], []]
    assert all(record.messages[1] == answer for record in found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "c.png", "prompt": "?", "response": "!"}, "there is no image .*c.png"),
        (
            {"images": ["a.png"], "prompt": "<image><image>", "response": "!"},
            r"have places for 2 listed image\(s\), and the field lists 1",
        ),
        ({"images": "a.png", "prompt": "?", "response": "!"}, "'images' is str 'a.png', not a"),
        ({"image": "https://x/y.png", "prompt": "?", "response": "!"}, "not downloaded"),
        ({"image": 3, "prompt": "?", "response": "!"}, "an image is int 3, not the path"),
        ({"image": "a.png", "text": "running"}, "belong to a chat, and this record is a text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "a part of a message is {'type': 'video'}",
        ),
    ],
)
def test_wrong_images_are_told_with_their_line(
    tmp_path: Path, line: dict[str, Any], message: str
) -> None:
    saved(tmp_path, "a.png")
    right = {"prompt": "?", "response": "!"}
    with pytest.raises(InputError, match=message) as caught:
        opened(tmp_path, right, line)
    assert caught.value.path == f"{tmp_path / 'train.jsonl'}:2"


def test_an_image_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    (image,) = opened(tmp_path, {"image": "a.png", "prompt": "?", "response": "!"})[0].images
    with pytest.raises(InputError, match="of no format that pillow knows") as caught:
        image.load()
    assert caught.value.path == f"{tmp_path / 'train.jsonl'}:1"


def test_rows_of_the_datasets_library(tmp_path: Path) -> None:
    saved(tmp_path, "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for value in ({"bytes": content, "path": None}, Image.open(tmp_path / "a.png")):
        fields = {"images": [value], "prompt": "?", "response": "!"}
        chat = with_images(record_from(fields, Columns(), "x"), fields, None, "x")
        assert isinstance(chat, Chat)
        assert pixels(chat).shape == (8, 8, 3)


def test_a_model_of_text_refuses_images() -> None:
    with pytest.raises(InputError, match="the model is trained on text alone"):
        Encoder(byte_tokenizer())(records("digits")[0])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(1, 9))
def test_image_tokens_stand_where_images_do_and_are_never_trained(
    counts: list[int], num_tokens: int
) -> None:
    """Turn i of the user, and of the assistant, shows ``counts[i]`` images between its words."""
    one = records("digits")[0].images[0]
    messages = []
    for turn, count in enumerate(counts):
        parts = [{"type": "text", "text": f"<{turn}"}, *[{"type": "image"}] * count]
        for role in ("user", "assistant"):
            messages.append({"role": role, "content": [*parts, {"type": "text", "text": ">"}]})
    chat = Chat(tuple(messages), images=(one,) * (2 * sum(counts)))
    tokenizer: Any = byte_tokenizer()
    encoder = VisionEncoder(tokenizer, FixedGrid(8, num_tokens), IMAGE_ID, 4096)
    sample = encoder(chat)
    text = tokenizer.decode(sample.input_ids)
    for turn, count in enumerate(counts):
        assert text.count(f"<{turn}" + "<|image|>" * (count * num_tokens) + ">") == 2
    assert sample.input_ids.count(IMAGE_ID) == 2 * sum(counts) * num_tokens
    assert len(sample.images) == 2 * sum(counts)
    trained = [
        token for token, kept in zip(sample.input_ids, sample.loss_mask, strict=True) if kept
    ]
    assert IMAGE_ID not in trained
    said = "".join(f"<{turn}><|im_end|>" for turn in range(len(counts)))
    assert tokenizer.decode(trained) == said


@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("pack", [False, True])
def test_images_travel_with_their_rows(dp_size: int, size: int, pack: bool) -> None:
    policy = Policy(
        model_config=LLAVA,
        tokenizer=Tokenizer(name="bytes"),
        vision=Vision(),
        max_total_sequence_length=64,
    )
    recipe = Recipe(policy=policy, data=Data(dataset="digits"))
    samples = open_dataset(recipe, byte_tokenizer(), "train")
    found = {}
    for dp_rank in range(dp_size):
        source = BatchSource(
            samples,
            global_batch_size=7,
            micro_batch_size=size,
            dp_rank=dp_rank,
            dp_size=dp_size,
            seed=3,
            shuffle=True,
            max_length=64,
            pad_id=256,
            pack=pack,
        )
        for batch in source.global_batch(2):
            shown = [index for row in batch.sample_indices for index in row]
            images = batch.images["pixel_values"]
            assert (batch.input_ids == IMAGE_ID).sum() == 4 * len(images)
            assert not (batch.labels == IMAGE_ID).any()
            if not shown:  # a blank image keeps the vision tower of this rank at work
                assert len(images) == 1
                assert (batch.labels == NOT_TRAINED).all()
                assert int(batch.attention_mask.sum()) == len(batch.input_ids)
                continue
            assert len(images) == len(shown)
            found.update(zip(shown, images, strict=True))
    assert sorted(found) == sorted(source.sample_indices(2))
    for index, image in found.items():
        assert image.equal(samples[index].images[0]["pixel_values"][0])


@given(st.integers(8, 64))
def test_shapes_differ_at_every_size(cell_size: int) -> None:
    drawn = {outline(shape, cell_size).tobytes() for shape in Shape}
    assert len(drawn) == len(Shape)
    for shape in Shape:
        assert not outline(shape, cell_size)[[0, -1]].any()
