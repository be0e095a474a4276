"""The recipe's tokenizer: one built in that needs no files, or any of Hugging Face's.

``bytes`` has one id per byte (the id is the byte's value) followed by the special tokens below,
so every text of UTF-8 survives encoding and decoding, and no vocabulary has to be downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTES = "bytes"

NUM_BYTES = 256
PAD, BOS, EOS, IM_START, IM_END = "<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant", "tool")
IMAGE = "<|image|>"
_SPECIALS = (PAD, BOS, EOS, IM_START, IM_END, *(f"<|{role}|>" for role in ROLES), IMAGE)
_ID = {token: NUM_BYTES + place for place, token in enumerate(_SPECIALS)}
VOCAB_SIZE = 272
"""Of ``bytes``: 256 bytes, the special tokens, and reserved ids up to a multiple of 16, so that
embedding and output matrix split evenly over up to 16 tensor-parallel ranks."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|><|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{{ '<|image|>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|><|assistant|>' }}{% endif %}"
)
"""ChatML with one token per role, so that short exercises are not mostly the names of roles."""


def load_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer that ``policy.tokenizer`` names; it always has a padding token.

    Raises:
        InputError: none is named, or it cannot be loaded.
    """
    policy = recipe.policy
    name = policy.tokenizer.name or policy.hf_path or policy.model_name
    if name is None:
        raise InputError(
            "policy.tokenizer.name is not set, and there is no policy.model_name to take it from",
            fix=f"set policy.tokenizer.name to '{BYTES}', a Hugging Face name, or a folder",
        )
    tokenizer = byte_tokenizer() if name == BYTES else _pretrained(name)
    if policy.tokenizer.chat_template is not None:
        tokenizer.chat_template = policy.tokenizer.chat_template
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise InputError(
                f"the tokenizer {name!r} has neither a padding nor an end-of-text token",
                fix="use a tokenizer folder whose tokenizer_config.json sets pad_token",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """The built-in tokenizer: ids 0-255 are bytes, special tokens follow."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Without merges, BPE over the byte-level alphabet is the identity on bytes.
    vocabulary = {character: byte for byte, character in enumerate(_printable_bytes())}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    num_reserved = VOCAB_SIZE - NUM_BYTES - len(_SPECIALS)
    specials = [*_SPECIALS, *(f"<|reserved_{index}|>" for index in range(num_reserved))]
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in specials]
    )
    build = cast(Any, PreTrainedTokenizerFast)
    tokenizer = build(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        # A chat ends its turns with <|im_end|>; generation has to stop there.
        eos_token=IM_END,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    return cast("PreTrainedTokenizerBase", tokenizer)


def is_byte_chat(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is ``byte_tokenizer`` with its own chat template."""
    probe = f"{IM_START}a\xff{IM_END}"
    return (
        tokenizer.chat_template == CHAT_TEMPLATE
        and len(tokenizer) == VOCAB_SIZE
        and cast(Any, tokenizer).encode(probe, add_special_tokens=False)
        == [_ID[IM_START], ord("a"), *"\xff".encode(), _ID[IM_END]]
    )


def byte_chat(messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]] | None:
    """What ``byte_tokenizer`` and its template make of a chat, without either.

    Rendering and encoding take as long as a tenth of a training step of the models that are
    trained on bytes; this takes a tenth of that.

    Returns:
        ids, and 1 on those of the assistant's turns; None where only the template knows: other
        roles, other content than text, special tokens spelled out in it.
    """
    ids, mask = [_ID[BOS]], [0]
    for message in messages:
        role, content = message["role"], message.get("content")
        if role not in ROLES or not isinstance(content, str) or "<|" in content:
            return None
        turn = content.encode()
        ids += (_ID[IM_START], _ID[f"<|{role}|>"], *turn, _ID[IM_END])
        mask += (0, 0, *[int(role == "assistant")] * (len(turn) + 1))
    return ids, mask


def _printable_bytes() -> list[str]:
    """The character that stands for each byte in the byte-level alphabet, by byte value.

    Printable Latin-1 characters stand for themselves; the rest are moved up from 256 in order
    (Radford et al. 2019, the GPT-2 vocabulary).
    """
    itself = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)}
    itself |= set(range(ord("®"), ord("ÿ") + 1))
    moved = iter(range(NUM_BYTES, 2 * NUM_BYTES))
    return [chr(byte if byte in itself else next(moved)) for byte in range(NUM_BYTES)]


def _pretrained(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return cast("PreTrainedTokenizerBase", cast(Any, AutoTokenizer).from_pretrained(name))
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"cannot load the tokenizer {name!r}: {reason}",
            fix=f"name an existing folder or Hugging Face repository in policy.tokenizer.name, or "
            f"'{BYTES}'; without a network, download it first and set policy.hf_path",
        ) from error
