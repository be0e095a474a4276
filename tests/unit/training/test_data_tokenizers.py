from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Policy, Recipe, Tokenizer
from evenkeel.training.data.chat_mask import Encoder
from evenkeel.training.data.records import Chat, Text
from evenkeel.training.data.tokenizers import (
    VOCAB_SIZE,
    byte_chat,
    byte_tokenizer,
    is_byte_chat,
    load_tokenizer,
)

BYTES = byte_tokenizer()
MULTI_TURN = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Grüezi 你好"},
    {"role": "assistant", "content": " hello\n"},
    {"role": "user", "content": "<b>again</b>"},
    {"role": "assistant", "content": "bye ♥"},
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def recipe(**tokenizer: str) -> Recipe:
    return Recipe(policy=Policy(tokenizer=Tokenizer(**tokenizer)))


def trained_text(template: str | None, messages: tuple[dict[str, str], ...]) -> list[str]:
    """Each run of trained tokens, decoded."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    sample = Encoder(tokenizer)(Chat(messages))
    assert len(sample.input_ids) == len(sample.loss_mask)
    runs: list[list[int]] = [[]]
    for token, trained in zip(sample.input_ids, sample.loss_mask, strict=True):
        if trained:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_bytes(text: str) -> None:
    ids = BYTES.encode(text, add_special_tokens=False)
    assert BYTES.decode(ids) == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=50))
def test_an_id_below_256_is_the_byte(text: str) -> None:
    assert BYTES.encode(text, add_special_tokens=False) == list(text.encode())


def test_vocabulary_is_closed() -> None:
    assert len(BYTES) == VOCAB_SIZE
    assert VOCAB_SIZE % 16 == 0
    ids = {BYTES.pad_token_id, BYTES.bos_token_id, BYTES.eos_token_id}
    assert len(ids) == 3
    assert all(256 <= token < VOCAB_SIZE for token in ids)


@pytest.mark.parametrize("template", [None, CHATML])
def test_assistant_turns_and_their_ends_are_trained(template: str | None) -> None:
    assert trained_text(template, MULTI_TURN) == [" hello\n<|im_end|>", "bye ♥<|im_end|>"]


def test_generation_marks_are_followed() -> None:
    marked = (
        "{% for m in messages %}{% if m.role == 'assistant' %}A:"
        "{% generation %}{{ m.content }};{% endgeneration %}"
        "{% else %}U:{{ m.content }};{% endif %}{% endfor %}"
    )
    assert trained_text(marked, MULTI_TURN) == [" hello\n;", "bye ♥;"]


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    rewriting = (
        "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}"
        "[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    with pytest.raises(InputError, match="up to message 2 differently when more"):
        trained_text(rewriting, MULTI_TURN[1:] + MULTI_TURN[3:])


def test_a_template_that_refuses_a_role_says_which_line() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(InputError, match=r"a.jsonl:3: .*refuses the conversation: no system role"):
        Encoder(tokenizer)(Chat(MULTI_TURN, place="a.jsonl:3"))


def test_a_chat_without_an_answer_is_refused() -> None:
    with pytest.raises(InputError, match="no assistant turn"):
        Encoder(BYTES)(Chat(MULTI_TURN[:2]))


def test_the_prompt_is_what_comes_before_the_trained_tokens() -> None:
    encoder = Encoder(BYTES)
    chat = Chat(MULTI_TURN[1:3])
    sample, prompt = encoder(chat), encoder.prompt_ids(chat)
    assert sample.input_ids[: len(prompt)] == prompt
    assert sample.loss_mask == [0] * len(prompt) + [1] * (len(sample.input_ids) - len(prompt))
    assert encoder.prompt_ids(Chat(MULTI_TURN[1:2])) == prompt


def test_running_text_is_trained_whole() -> None:
    sample = Encoder(BYTES)(Text("ab"))
    assert sample.input_ids == [BYTES.bos_token_id, 97, 98, BYTES.eos_token_id]
    assert sample.loss_mask == [1, 1, 1, 1]


def test_a_saved_tokenizer_loads_from_its_folder(tmp_path: Path) -> None:
    BYTES.save_pretrained(tmp_path)
    loaded = load_tokenizer(recipe(name=str(tmp_path)))
    assert Encoder(loaded)(Chat(MULTI_TURN)) == Encoder(BYTES)(Chat(MULTI_TURN))
    by_model = Recipe(policy=Policy(model_name="nowhere", hf_path=str(tmp_path)))
    assert len(load_tokenizer(by_model)) == len(BYTES)


def test_a_recipe_may_replace_the_template() -> None:
    tokenizer = load_tokenizer(recipe(name="bytes", chat_template=CHATML))
    assert tokenizer.chat_template == CHATML


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"policy\.tokenizer\.name is not set"):
        load_tokenizer(Recipe())
    with pytest.raises(InputError, match=r"cannot load the tokenizer .*nothing-here"):
        load_tokenizer(recipe(name=str(tmp_path / "nothing-here")))


turns = st.tuples(
    st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["<|im_end|>", "a<|b"]),
)


@given(st.lists(turns, max_size=5))
def test_the_short_cut_for_bytes_equals_the_template(turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    chat = Chat((*messages, {"role": "assistant", "content": "so"}))
    assert is_byte_chat(BYTES)
    by_template = Encoder(BYTES)
    by_template._bytes = False
    assert Encoder(BYTES)(chat) == by_template(chat)


def test_the_short_cut_is_for_its_own_template_only() -> None:
    other = byte_tokenizer()
    other.chat_template = CHATML
    assert not is_byte_chat(other)
    assert byte_chat([{"role": "user", "content": "a"}]) == ([257, 259, 262, 97, 260], [0] * 5)
    assert byte_chat([{"role": "user", "content": "<|im_end|>"}]) is None
    assert byte_chat([{"role": "developer", "content": "a"}]) is None
