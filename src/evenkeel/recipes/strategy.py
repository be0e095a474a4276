"""The strategy words of a recipe's name: ``fsdp2tp8sp``, ``tp4pp2``, ``megatron``, ``ep8``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SIZES = ("tp", "pp", "cp", "ep", "dp", "etp", "vpp", "fsdp")
"""Parallel sizes a name can give, by their short names."""

FLAGS = ("sp", "actckpt", "seqpack", "lora", "fp8")
"""Short flags that may be glued to the end of a strategy word."""

# as written → the backend it names; the vocabulary says what each means
_BACKENDS = {
    "fsdp1": "fsdp1",
    "fsdp2": "fsdp2",
    "fsdp": "fsdp2",
    "dtensor2": "dtensor",
    "dtensor": "dtensor",
    "megatron": "megatron",
    "mcore": "megatron",
    "ddp": "ddp",
    "deepspeed": "deepspeed",
    "automodel": "automodel",
}
_SIZE = rf"(?:{'|'.join(SIZES)})"
_FLAG = rf"(?:{'|'.join(FLAGS)})"
_ONE_SIZE = re.compile(rf"({_SIZE})([0-9]*)")


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a recipe is spread over its GPUs, as far as its name says; None: the name does not."""

    backend: str | None = None
    """``fsdp2``, ``dtensor``, ``megatron``, or what else the name says; None for ``tp4pp2``."""
    tp: int | None = None
    """Tensor parallel size."""
    pp: int | None = None
    """Pipeline parallel size."""
    cp: int | None = None
    """Context parallel size."""
    ep: int | None = None
    """Expert parallel size."""
    sp: bool = False
    """``sp`` is glued to the strategy, as in ``fsdp2tp8sp``."""
    fsdp: int | None = None
    """Ranks that share parameters: ``fsdp8``. ``fsdp1`` and ``fsdp2`` name the version instead."""
    dp: int | None = None
    """Data parallel size."""
    etp: int | None = None
    """Tensor parallel size within an expert."""
    vpp: int | None = None
    """Virtual pipeline stages per rank."""

    def to_json(self) -> dict[str, Any]:
        """The fields; null where the name does not say."""
        return asdict(self)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that the name states, by short name."""
        values = {name: getattr(self, name) for name in SIZES}
        return {name: value for name, value in values.items() if value is not None}

    def words(self) -> list[str]:
        """The strategy as one word in the usual order; empty where there is none."""
        backend = {"dtensor": "dtensor2"}.get(self.backend or "", self.backend or "")
        if self.fsdp is not None and backend == "fsdp2":
            backend = ""
        sizes = {"fsdp": self.fsdp, **self.sizes} if self.fsdp is not None else self.sizes
        word = backend + "".join(f"{name}{size}" for name, size in sizes.items())
        return [word + "sp" * self.sp] if word else []


class StrategyError(Exception):
    """A word is no strategy though it looks like one: where in it, and what belongs there."""

    def __init__(self, message: str, expected: str, word: int, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.word = word
        self.offset = offset


class StrategyGrammar:
    """Which words are strategies: the backends known here, and those that a tree adds."""

    def __init__(self, more_backends: Iterable[str] = ()) -> None:
        self.backends = {**_BACKENDS, **{word: word for word in more_backends}}
        # fsdp1 and fsdp2 are versions; fsdp8 is a size
        plain = sorted(set(self.backends) - {"fsdp", "fsdp1", "fsdp2"}, key=len, reverse=True)
        words = "|".join(map(re.escape, plain))
        backend = rf"(?:fsdp[12](?![0-9])|fsdp(?![0-9])|{words})"
        self._word = re.compile(
            rf"({backend}?)((?:{_SIZE}[1-9][0-9]*)*)((?:{_FLAG})*)((?:_[A-Za-z0-9]+)*)"
        )
        self._almost = re.compile(rf"{backend}?(?:{_SIZE}[0-9]*)+(?:{_FLAG})*")
        self._starts = re.compile(rf"{backend}(?:{_SIZE}[1-9][0-9]*)*|(?:{_SIZE}[1-9][0-9]*)+")

    def is_strategy(self, word: str) -> bool:
        """Whether a word between hyphens says how a recipe is spread (``sp`` alone does not)."""
        match = self._word.fullmatch(word)
        return match is not None and bool(match[1] or match[2])

    def read(self, words: Sequence[str]) -> tuple[Strategy, list[str]] | None:
        """The strategy that ``words`` state in any order, and the words that are left over.

        What is glued to a strategy word, other than ``sp``, is left over in its place.
        ``automodel`` names the backend only where no other word does. None: no word states a
        strategy.

        Raises:
            StrategyError: two backends, a size twice, a size that is not a number from 1.
        """
        matches = [self._checked(index, word) for index, word in enumerate(words)]
        named = any(m and m[0] != "automodel" and (m[1] or "fsdp" in m[2]) for m in matches)
        stated: dict[str, Any] = {}
        rest: list[str] = []
        backend_at: int | None = None
        for index, (word, match) in enumerate(zip(words, matches, strict=True)):
            if match is None or (word == "automodel" and (named or backend_at is not None)):
                rest.append(word)
                continue
            if match[1]:
                if backend_at is not None:
                    before = words[backend_at]
                    raise StrategyError(
                        f"a second backend, after {before!r}", "one backend", index, 0
                    )
                backend_at = index
                stated["backend"] = self.backends[match[1]]
            _take_sizes(stated, match, index)
            flags = re.findall(_FLAG, match[3])
            stated["sp"] = stated.get("sp", False) or "sp" in flags
            rest.extend(flag for flag in flags if flag != "sp")
            rest.extend(match[4].split("_")[1:])
        if not stated:
            return None
        if "fsdp" in stated:
            stated.setdefault("backend", "fsdp2")
        return Strategy(**stated), rest

    def broken_word(self, words: Sequence[str]) -> tuple[int, int] | None:
        """The first word that starts as a strategy and goes wrong: its index, and where in it."""
        for index, word in enumerate(words):
            if (match := self._starts.match(word)) and match.end() < len(word):
                return index, match.end()
        return None

    def _checked(self, index: int, word: str) -> re.Match[str] | None:
        """The match of a strategy word; None for any other word."""
        match = self._word.fullmatch(word)
        if match is not None:
            return match if match[1] or match[2] else None
        if self._almost.fullmatch(word):
            for size in _ONE_SIZE.finditer(word):
                if not size[2] or size[2][0] == "0":
                    raise StrategyError(
                        f"{size[0]!r} is no size" if size[2] else f"{size[1]!r} has no size",
                        f"{size[1]} and a whole number from 1, without leading zeros",
                        index,
                        size.end(1),
                    )
        return None


STANDARD = StrategyGrammar()
"""The strategies of the packaged vocabulary."""


def _take_sizes(stated: dict[str, Any], match: re.Match[str], index: int) -> None:
    for size in _ONE_SIZE.finditer(match[0], match.start(2), match.end(2)):
        if size[1] in stated:
            raise StrategyError(
                f"{size[1]!r} is given twice", f"one size for {size[1]}", index, size.start()
            )
        stated[size[1]] = int(size[2])
