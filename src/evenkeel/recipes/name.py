"""The grammar of recipe names: text to typed fields and back to the same text.

``docs/recipes.md`` gives it in EBNF. Which words exist is the vocabulary's business, not the
grammar's: here an unknown algorithm, model or modifier is as good as a known one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from evenkeel.errors import InputError
from evenkeel.recipes.strategy import STANDARD, Strategy, StrategyError, StrategyGrammar

MAX_LENGTH = 200
"""Characters of a name; a file name has room for 255, suffixes and temporary names included."""

_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")
_VERSION = re.compile(r"\.v([1-9][0-9]*)\Z")
_ALMOST_VERSION = re.compile(r"[._-]?[vV][0-9]+(?:\.[0-9]+)*|.*\.[vV][0-9]*")
_VLM = "vlm_"
_ALGO = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_ALLOCATION = re.compile(r"([1-9][0-9]*)n([1-9][0-9]*)g")
_ALMOST_ALLOCATION = re.compile(r"[0-9]+[nN][0-9]+[gG][a-z]*|[0-9]+[gG][0-9]+[nN]")
_WORD = re.compile(r"[A-Za-z0-9]+(?:[._]+[A-Za-z0-9]+)*")
_CONTEXT = re.compile(r"[1-9][0-9]*[kK]")

SHAPE = "<algo>-<model>-<nodes>n<gpus>g-<strategy>[-modifiers][-long][.vN]"


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


def parse(text: str, *, declared: bool = False, grammar: StrategyGrammar = STANDARD) -> RecipeName:
    """Read a name, without folder and suffix.

    Args:
        text: the name.
        declared: the driver declares an exception, so that the allocation and the strategy may
            be absent.
        grammar: which words are strategies; a tree's vocabulary can add some.

    Raises:
        InvalidNameError: with the position, what was expected there, and the nearest legal name.
    """
    try:
        return _parse(text, declared, grammar)
    except _GrammarError as error:
        from evenkeel.recipes.name_repair import nearest

        raise InvalidNameError(
            text, error.message, error.position + 1, error.expected, nearest(text, grammar)
        ) from None


def is_legal(text: str, grammar: StrategyGrammar = STANDARD) -> bool:
    """Whether ``text`` is a name that needs no declaration."""
    try:
        return not _parse(text, False, grammar).needs_declaration
    except _GrammarError:
        return False


class _GrammarError(Exception):
    def __init__(self, message: str, position: int, expected: str) -> None:
        super().__init__(message)
        self.message = message
        self.position = position
        self.expected = expected


def _parse(text: str, declared: bool, grammar: StrategyGrammar) -> RecipeName:
    if len(text) > MAX_LENGTH:
        raise _GrammarError(f"it has {len(text)} characters", MAX_LENGTH, "the end of the name")
    if illegal := _ILLEGAL.search(text):
        raise _GrammarError(
            f"{illegal[0]!r} cannot be in a name", illegal.start(), "a letter, a digit, '-' or '.'"
        )
    version = _VERSION.search(text)
    reader = _Reader(text[: version.start()] if version else text, grammar)
    vlm, algo = reader.algorithm()
    at = reader.allocation()
    context = None
    if at is None:
        model_end, context = reader.end_of_model(declared)
        first = model_end
    else:
        model_end, first = at, at + 1
    reader.check_words(first)
    if model_end == 1:
        raise _GrammarError("the model is missing", reader.place(1), "a model such as llama3.1-8b")
    allocation = _ALLOCATION.fullmatch(reader.words[at]) if at else None
    strategy, rest = reader.strategy(first, needed=not declared and at is not None)
    if context:
        rest.remove(context)
    return RecipeName(
        algo=algo,
        vlm=vlm,
        model="-".join(reader.words[1:model_end]),
        num_nodes=int(allocation[1]) if allocation else None,
        gpus_per_node=int(allocation[2]) if allocation else None,
        strategy=strategy,
        modifiers=tuple(word for word in rest if word != "long"),
        long="long" in rest,
        version=int(version[1]) if version else None,
        tail=tuple(reader.words[first:]),
        context=context,
    )


class _Reader:
    """The words between the hyphens, and where each starts."""

    def __init__(self, stem: str, grammar: StrategyGrammar) -> None:
        self.grammar = grammar
        self.words = stem.split("-")
        self.end = len(stem)
        self._starts = [0]
        for word in self.words[:-1]:
            self._starts.append(self._starts[-1] + len(word) + 1)

    def place(self, index: int) -> int:
        """Where a word starts; past the last word: the end."""
        return self._starts[index] if index < len(self.words) else self.end

    def algorithm(self) -> tuple[bool, str]:
        word = self.words[0]
        vlm = word.startswith(_VLM)
        algo = word[len(_VLM) :] if vlm else word
        if word == "vlm":
            raise _GrammarError(
                "the algorithm is missing", 3, "'_' and an algorithm, as in vlm_grpo"
            )
        match = _ALGO.match(algo)
        end = match.end() if match else 0
        if end < len(algo) or not match:
            raise _GrammarError(
                f"{algo[end]!r} is not part of an algorithm" if algo else "no algorithm",
                len(word) - len(algo) + end,
                "an algorithm in small letters and digits, such as sft, dpo or grpo",
            )
        return vlm, algo

    def allocation(self) -> int | None:
        """Which word is the allocation; None where none is."""
        found = [i for i, word in enumerate(self.words) if i > 0 and _ALLOCATION.fullmatch(word)]
        if len(found) > 1:
            raise _GrammarError(
                f"a second allocation, after {self.words[found[0]]!r}",
                self.place(found[1]),
                "a strategy or a modifier",
            )
        return found[0] if found else None

    def end_of_model(self, declared: bool) -> tuple[int, str | None]:
        """Where the model of a name without an allocation ends, and its context length.

        It ends where the first context length or strategy stands. Without a declaration in the
        driver a name needs one context length to be such an exception.
        """
        later = list(enumerate(self.words))[2:]
        contexts = [i for i, word in later if _CONTEXT.fullmatch(word)]
        almost = [i for i, word in later if self._is_almost_allocation(i, word)]
        spread = [i for i, word in later if self.grammar.is_strategy(word)]
        if not declared and (len(contexts) != 1 or almost):
            at = next(iter(almost or spread), len(self.words))
            found = f"{self.words[at]!r} is no allocation" if at < len(self.words) else ""
            raise _GrammarError(
                found or "no allocation",
                self.place(at),
                "the allocation <nodes>n<gpus>g, such as 1n8g",
            )
        model_end = min([*contexts, *spread, len(self.words)])
        return model_end, self.words[contexts[0]] if contexts else None

    def _is_almost_allocation(self, index: int, word: str) -> bool:
        """``04n8g``, ``8g4n``, or ``4n`` and ``8g`` as two words (``3n`` alone is a model's)."""
        pair = "".join(self.words[index : index + 2])
        return any(_ALMOST_ALLOCATION.fullmatch(text) for text in (word, pair))

    def check_words(self, first: int) -> None:
        """Every word is whole; strategy and modifiers, from ``first`` on, hold no version."""
        for index, word in enumerate(self.words[1:], start=1):
            match = _WORD.match(word)
            end = match.end() if match else 0
            if end < len(word) or not match:
                what = f"{word[end]!r} is out of place" if word else "a word is missing"
                raise _GrammarError(what, self.place(index) + end, "a word of letters and digits")
            if index >= first and _ALMOST_VERSION.fullmatch(word):
                last = index == len(self.words) - 1
                offset = max(0, word.lower().rfind(".v"))
                raise _GrammarError(
                    f"{word[offset:]!r} is no version",
                    self.place(index) + offset,
                    "a version .vN, N from 1" if last else "the version at the end of the name",
                )

    def strategy(self, first: int, *, needed: bool) -> tuple[Strategy, list[str]]:
        """The strategy from word ``first`` on, and the words that are left over."""
        tail = self.words[first:]
        try:
            read = self.grammar.read(tail)
        except StrategyError as error:
            place = self.place(first + error.word) + error.offset
            raise _GrammarError(error.message, place, error.expected) from None
        if tail.count("long") > 1:
            second = first + tail.index("long", tail.index("long") + 1)
            raise _GrammarError("'long' is given twice", self.place(second), "another modifier")
        if read is not None:
            return read
        if not needed:
            return Strategy(), tail
        if broken := self.grammar.broken_word(tail):
            raise _GrammarError(
                f"{tail[broken[0]][broken[1] :]!r} does not continue a strategy",
                self.place(first + broken[0]) + broken[1],
                "a parallel size such as tp2, '-' or the end",
            )
        raise _GrammarError(
            "no strategy after the allocation",
            self.place(first),
            "a strategy such as fsdp2tp1, tp4pp2 or megatron",
        )
