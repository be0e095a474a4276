"""The grammar of recipe names: text to typed fields and back to the same text.

``docs/recipes.md`` gives it in EBNF. Which words exist is the vocabulary's business, not the
grammar's: here an unknown algorithm, model or modifier is as good as a known one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from evenkeel.errors import InputError
from evenkeel.recipes import strategy as strategies
from evenkeel.recipes.strategy import Strategy, StrategyError

MAX_LENGTH = 200
"""Characters of a name; a file name has room for 255, suffixes and temporary names included."""

_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")
_VERSION = re.compile(r"\.v([1-9][0-9]*)\Z")
_ALMOST_VERSION = re.compile(r"[._-]?[vV][0-9]+(?:\.[0-9]+)*|.*\.[vV][0-9]*")
_VLM = "vlm_"
_ALGO = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_ALLOCATION = re.compile(r"([1-9][0-9]*)n([1-9][0-9]*)g")
_ALMOST_ALLOCATION = re.compile(r"[0-9]+[nN][0-9]+[gG][a-z]*|[0-9]+[gG][0-9]+[nN]|[0-9]+[nN][0-9]*")
_WORD = re.compile(r"[A-Za-z0-9]+(?:[._]+[A-Za-z0-9]+)*")
_CONTEXT = re.compile(r"[1-9][0-9]*[kK]")

SHAPE = "<algo>-<model>-<nodes>n<gpus>g-<strategy>[-modifiers][-long][.vN]"
_STRATEGY_WANTED = "a strategy such as fsdp2tp1, tp4pp2 or megatron"


@dataclass(frozen=True, slots=True)
class RecipeName:
    """A recipe's name, read. ``str()`` gives back the text it was read from."""

    algo: str
    """Without the prefix ``vlm_``."""
    vlm: bool
    model: str
    num_nodes: int | None
    """None: the name is an exception that states no allocation."""
    gpus_per_node: int | None
    strategy: Strategy
    modifiers: tuple[str, ...]
    """In the order written, without ``long``."""
    long: bool
    version: int | None
    tail: tuple[str, ...]
    """Every word after the allocation (without one: after the model) in the order written."""
    context: str | None = None
    """``8K``: the context length that stands in place of the allocation."""

    @classmethod
    def build(
        cls,
        *,
        algo: str,
        model: str,
        num_nodes: int | None,
        gpus_per_node: int | None,
        strategy: Strategy,
        vlm: bool = False,
        modifiers: tuple[str, ...] = (),
        long: bool = False,
        version: int | None = None,
        context: str | None = None,
    ) -> RecipeName:
        """A name from its fields, words in the usual order.

        Raises:
            InvalidNameError: the fields make no legal name.
        """
        words = [*([context] if context else []), *strategy.words(), *modifiers]
        made = cls(
            algo=algo,
            vlm=vlm,
            model=model,
            num_nodes=num_nodes,
            gpus_per_node=gpus_per_node,
            strategy=strategy,
            modifiers=modifiers,
            long=long,
            version=version,
            tail=(*words, *(["long"] if long else [])),
            context=context,
        )
        return parse(str(made), declared=num_nodes is None)

    def __str__(self) -> str:
        prefix = _VLM if self.vlm else ""
        allocation = [] if self.num_nodes is None else [f"{self.num_nodes}n{self.gpus_per_node}g"]
        words = "-".join([prefix + self.algo, self.model, *allocation, *self.tail])
        return words if self.version is None else f"{words}.v{self.version}"

    @property
    def needs_declaration(self) -> bool:
        """The name is an exception: its driver must declare why, and the intended hardware."""
        return self.num_nodes is None or not self.states_strategy

    @property
    def states_strategy(self) -> bool:
        """Whether any word says how the recipe is spread."""
        return self.strategy != Strategy()

    @property
    def kind(self) -> str:
        """The folder that recipes and drivers of this kind lie in: ``llm`` or ``vlm``."""
        return "vlm" if self.vlm else "llm"

    def to_json(self) -> dict[str, Any]:
        """The fields as ``evenkeel name parse --json`` prints them; null: the name does not say."""
        return {
            "name": str(self),
            "algo": self.algo,
            "vlm": self.vlm,
            "model": self.model,
            "num_nodes": self.num_nodes,
            "gpus_per_node": self.gpus_per_node,
            "strategy": self.strategy.to_json(),
            "modifiers": list(self.modifiers),
            "long": self.long,
            "version": self.version,
            "context": self.context,
            "needs_declaration": self.needs_declaration,
        }


class InvalidNameError(InputError):
    """A name breaks the grammar.

    Attributes:
        name: the text.
        position: where, counted from 1; one past the end where something is missing there.
        expected: what belongs there.
        nearest: the nearest legal name.
    """

    def __init__(self, name: str, message: str, position: int, expected: str, nearest: str) -> None:
        self.name = name
        self.position = position
        self.expected = expected
        self.nearest = nearest
        self.reason = message
        super().__init__(
            f"{name[:MAX_LENGTH]!r} is no recipe name: {message} at position {position}; "
            f"expected {expected}",
            fix=f"the nearest legal name is {nearest}",
        )


def parse(text: str, *, declared: bool = False) -> RecipeName:
    """Read a name, without folder and suffix.

    Args:
        text: the name.
        declared: the driver declares an exception, so that the allocation and the strategy may
            be absent.

    Raises:
        InvalidNameError: with the position, what was expected there, and the nearest legal name.
    """
    try:
        return _parse(text, declared)
    except _GrammarError as error:
        from evenkeel.recipes.name_repair import nearest

        raise InvalidNameError(
            text, error.message, error.position + 1, error.expected, nearest(text)
        ) from None


def is_legal(text: str) -> bool:
    """Whether ``text`` is a name that needs no declaration."""
    try:
        return not _parse(text, False).needs_declaration
    except _GrammarError:
        return False


class _GrammarError(Exception):
    def __init__(self, message: str, position: int, expected: str) -> None:
        super().__init__(message)
        self.message = message
        self.position = position
        self.expected = expected


def _parse(text: str, declared: bool) -> RecipeName:
    if len(text) > MAX_LENGTH:
        raise _GrammarError(f"it has {len(text)} characters", MAX_LENGTH, "the end of the name")
    if illegal := _ILLEGAL.search(text):
        raise _GrammarError(
            f"{illegal[0]!r} cannot be in a name", illegal.start(), "a letter, a digit, '-' or '.'"
        )
    version = _VERSION.search(text)
    stem = text[: version.start()] if version else text
    words = stem.split("-")
    starts = _starts(words)
    vlm, algo = _algorithm(words[0])
    at = _allocation(words, starts)
    if at is None:
        return _exception(words, starts, vlm, algo, version, declared)
    _check_words(words, starts, at)
    allocation = _ALLOCATION.fullmatch(words[at])
    assert allocation is not None
    if at == 1:
        raise _GrammarError("the model is missing", starts[1], "a model such as llama3.1-8b")
    strategy, modifiers = _strategy(words, starts, at + 1, needed=not declared)
    return RecipeName(
        algo=algo,
        vlm=vlm,
        model="-".join(words[1:at]),
        num_nodes=int(allocation[1]),
        gpus_per_node=int(allocation[2]),
        strategy=strategy,
        modifiers=tuple(word for word in modifiers if word != "long"),
        long="long" in modifiers,
        version=int(version[1]) if version else None,
        tail=tuple(words[at + 1 :]),
    )


def _starts(words: list[str]) -> list[int]:
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word) + 1
    return starts


def _algorithm(word: str) -> tuple[bool, str]:
    vlm = word.startswith(_VLM)
    algo = word[len(_VLM) :] if vlm else word
    if word == "vlm":
        raise _GrammarError("the algorithm is missing", 3, "'_' and an algorithm, as in vlm_grpo")
    match = _ALGO.match(algo)
    end = match.end() if match else 0
    if end < len(algo) or not match:
        raise _GrammarError(
            "no algorithm" if not algo else f"{algo[end]!r} is not part of an algorithm",
            len(word) - len(algo) + end,
            "an algorithm in small letters and digits, such as sft, dpo or grpo",
        )
    return vlm, algo


def _allocation(words: list[str], starts: list[int]) -> int | None:
    found = [i for i, word in enumerate(words) if i > 0 and _ALLOCATION.fullmatch(word)]
    if len(found) > 1:
        raise _GrammarError(
            f"a second allocation, after {words[found[0]]!r}",
            starts[found[1]],
            "a strategy or a modifier",
        )
    return found[0] if found else None


def _check_words(words: list[str], starts: list[int], at: int) -> None:
    """Words of the model stand before ``at``; strategy and modifiers after."""
    for index, word in enumerate(words[1:], start=1):
        match = _WORD.match(word)
        end = match.end() if match else 0
        if end < len(word) or not match:
            what = f"{word[end]!r} is out of place" if word else "a word is missing"
            raise _GrammarError(what, starts[index] + end, "a word of letters and digits")
        if index > at and _ALMOST_VERSION.fullmatch(word):
            last = index == len(words) - 1
            place = starts[index] + max(0, word.lower().rfind(".v"))
            raise _GrammarError(
                f"{word[word.lower().rfind('.v') + 1 if '.' in word else 0 :]!r} is no version",
                place,
                "a version .vN, N from 1" if last else "the version .vN at the end of the name",
            )


def _strategy(
    words: list[str], starts: list[int], first: int, *, needed: bool
) -> tuple[Strategy, list[str]]:
    tail = words[first:]
    try:
        read = strategies.read(tail)
    except StrategyError as error:
        place = starts[first + error.word] + error.offset
        raise _GrammarError(error.message, place, error.expected) from None
    if tail.count("long") > 1:
        second = first + tail.index("long", tail.index("long") + 1)
        raise _GrammarError("'long' is given twice", starts[second], "another modifier")
    if read is not None:
        return read
    if needed:
        if broken := strategies.broken_word(tail):
            index, offset = first + broken[0], broken[1]
            raise _GrammarError(
                f"{words[index][offset:]!r} does not continue a strategy",
                starts[index] + offset,
                "a parallel size such as tp2, '-' or the end",
            )
        end = starts[first - 1] + len(words[first - 1])
        place = starts[first] if tail else end
        raise _GrammarError("no strategy after the allocation", place, _STRATEGY_WANTED)
    return Strategy(), list(tail)


def _exception(
    words: list[str],
    starts: list[int],
    vlm: bool,
    algo: str,
    version: re.Match[str] | None,
    declared: bool,
) -> RecipeName:
    """A name without an allocation: legal when its driver declares it.

    Its model ends where the first context length or strategy word stands.
    """
    contexts = [i for i, word in enumerate(words) if i > 1 and _CONTEXT.fullmatch(word)]
    almost = [i for i, word in enumerate(words) if i > 1 and _ALMOST_ALLOCATION.fullmatch(word)]
    spread = [i for i, word in enumerate(words) if i > 1 and strategies.is_strategy(word)]
    end = starts[-1] + len(words[-1])
    if not declared and (len(contexts) != 1 or almost):
        at = next(iter(almost or spread), len(words))
        raise _GrammarError(
            f"{words[at]!r} is no allocation" if at < len(words) else "no allocation",
            starts[at] if at < len(words) else end,
            "the allocation <nodes>n<gpus>g, such as 1n8g",
        )
    model_end = min([*contexts, *spread, len(words)])
    _check_words(words, starts, model_end - 1)
    if model_end < 2 or len(words) < 2:
        raise _GrammarError("the model is missing", end, "'-' and a model such as llama3.1-8b")
    strategy, rest = _strategy(words, starts, model_end, needed=False)
    context = words[contexts[0]] if contexts else None
    if context:
        rest.remove(context)
    return RecipeName(
        algo=algo,
        vlm=vlm,
        model="-".join(words[1:model_end]),
        num_nodes=None,
        gpus_per_node=None,
        strategy=strategy,
        modifiers=tuple(word for word in rest if word != "long"),
        long="long" in rest,
        version=int(version[1]) if version else None,
        tail=tuple(words[model_end:]),
        context=context,
    )
