"""The words that recipe names are made of, and what each means.

One data file comes with the package; a tree adds its own words in
``tests/test_suites/vocabulary.toml``. The grammar (``recipes.name``) knows none of them: an
unknown word is a finding, not a broken name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.name import RecipeName
from evenkeel.recipes.strategy import STANDARD, StrategyGrammar
from evenkeel.run_paths import SUITES

PACKAGED = Path(__file__).with_name("vocabulary.toml")
FILE_NAME = "vocabulary.toml"
"""A tree's own words, in its ``tests/test_suites``."""

_NUMBER = r"([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)"
_MAX_COMPOUND = 4


@dataclass(frozen=True, slots=True)
class UnknownWord:
    """A word of a name that the vocabulary does not have."""

    section: str
    """``algorithms``, ``models`` or ``modifiers``: where it could be added."""
    word: str
    nearest: str | None
    """The most similar known word, where one is similar."""

    @property
    def likely_slip(self) -> bool:
        """It resembles a known word: rather mistyped than new."""
        return self.nearest is not None

    @property
    def message(self) -> str:
        """What is wrong, in one line."""
        kind = {"algorithms": "algorithm", "models": "model family", "modifiers": "modifier"}
        hint = f" (did you mean {self.nearest!r}?)" if self.nearest else ""
        return f"unknown {kind[self.section]} {self.word!r}{hint}"

    @property
    def fix(self) -> str:
        """What to do about it."""
        return f"correct it, or add it to [{self.section}] of tests/test_suites/{FILE_NAME}"


@dataclass(frozen=True)
class Vocabulary:
    """Word → meaning, by the part of the name a word stands in."""

    algorithms: Mapping[str, str]
    models: Mapping[str, str]
    """Model families; a family is found anywhere in the model part, whole words from its start."""
    datasets: Mapping[str, str]
    """Words of the model part that say what it is trained on."""
    strategies: Mapping[str, str]
    """Backends and parallel sizes; a word that a tree adds is a backend of that name."""
    modifiers: Mapping[str, str]
    """``#`` stands for a number; a hyphen makes a compound, such as ``fp8-rollouts``."""

    def with_words(self, **sections: Mapping[str, str]) -> Vocabulary:
        """This vocabulary and more words; a word given again gets the new meaning."""
        changed = {name: {**getattr(self, name), **words} for name, words in sections.items()}
        return replace(self, **changed)

    def unknown_words(self, name: RecipeName) -> list[UnknownWord]:
        """The words of ``name`` that are not in here, in the order of the name."""
        unknown: list[UnknownWord] = []
        if name.algo not in self.algorithms:
            unknown.append(self._unknown("algorithms", name.algo))
        if self.family(name.model) is None:
            unknown.append(self._unknown("models", name.model))
        unknown.extend(
            self._unknown("modifiers", word)
            for word, meaning in self.modifier_meanings(name.modifiers)
            if meaning is None
        )
        return unknown

    def _unknown(self, section: str, word: str) -> UnknownWord:
        import difflib

        first = word.split("-")[0]
        if first.lower() in getattr(self, section):
            return UnknownWord(section, word, first.lower())
        near = difflib.get_close_matches(first, list(getattr(self, section)), n=3, cutoff=0.7)
        # swapped letters are the likelier slip: gpro is grpo rather than gspo
        near.sort(key=lambda known: sorted(known) != sorted(first))
        return UnknownWord(section, word, near[0] if near else None)

    def family(self, model: str) -> str | None:
        """The model family that the model part of a name holds: the longest known one."""
        found = [match[1] for match in self._families.finditer(model.lower())]
        return max(found, key=len) if found else None

    def modifier_meanings(self, modifiers: Sequence[str]) -> Iterator[tuple[str, str | None]]:
        """(word or compound, meaning or None) for all modifiers, longest compound first."""
        index = 0
        while index < len(modifiers):
            for length in range(min(_MAX_COMPOUND, len(modifiers) - index), 0, -1):
                word = "-".join(modifiers[index : index + length])
                meaning = self._meaning(word)
                if meaning is not None or length == 1:
                    yield word, meaning
                    index += length
                    break

    def _meaning(self, modifier: str) -> str | None:
        meaning = self.modifiers.get(modifier)
        if meaning is not None:
            return meaning
        for pattern, text in self._numbered:
            if match := pattern.fullmatch(modifier):
                return text.replace("#", match[1])
        return None

    @cached_property
    def grammar(self) -> StrategyGrammar:
        """The strategies that names may use with this vocabulary."""
        added = set(self.strategies) - set(_packaged().strategies)
        return StrategyGrammar(added) if added else STANDARD

    @cached_property
    def _numbered(self) -> list[tuple[re.Pattern[str], str]]:
        return [
            (re.compile(_NUMBER.join(map(re.escape, word.split("#", 1)))), meaning)
            for word, meaning in self.modifiers.items()
            if "#" in word
        ]

    @cached_property
    def _families(self) -> re.Pattern[str]:
        # a lookahead lets families overlap: "mistral-nemo" holds "mistral", too
        words = sorted((re.escape(word.lower()) for word in self.models), key=len, reverse=True)
        return re.compile(rf"(?:(?<=-)|\A)(?=({'|'.join(words)})(?![a-z]))")


def load(root: Path | None = None) -> Vocabulary:
    """The packaged vocabulary, with the words of the tree at ``root`` where it has any.

    Raises:
        InputError: the tree's file is not TOML of the known sections.
    """
    packaged = _packaged()
    if root is None:
        return packaged
    path = root / SUITES / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return packaged
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read: {error}", path=path) from error
    return packaged.with_words(**_sections(text, path))


def learned(vocabulary: Vocabulary, names: Iterable[RecipeName], at_least: int = 2) -> Vocabulary:
    """``vocabulary`` and the words that ``names`` use at least ``at_least`` times.

    For a tree of another team that has no file of words: what several of its names say is a word
    there; what one name alone says may be a slip of the pen.
    """
    counts: dict[str, dict[str, int]] = {"algorithms": {}, "models": {}, "modifiers": {}}
    for name in names:
        for unknown in vocabulary.unknown_words(name):
            word = unknown.word if unknown.section != "models" else unknown.word.split("-")[0]
            counts[unknown.section][word] = counts[unknown.section].get(word, 0) + 1
    words = {
        section: {word.lower() if section == "models" else word: "used by several recipes here"}
        for section, found in counts.items()
        for word, count in found.items()
        if count >= at_least
    }
    return vocabulary.with_words(**words)


@lru_cache(maxsize=1)
def _packaged() -> Vocabulary:
    return Vocabulary(**_sections(PACKAGED.read_text(encoding="utf-8"), PACKAGED, whole=True))


def _sections(text: str, path: Path, *, whole: bool = False) -> dict[str, dict[str, str]]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"not TOML: {error}", path=path, fix='write lines: word = "meaning"'
        ) from None
    known = [field.name for field in fields(Vocabulary)]
    for section, words in content.items():
        if section not in known:
            raise InputError(
                f"unknown section [{section}]{did_you_mean(section, known)}",
                path=path,
                fix=f"use the sections {', '.join(known)}",
            )
        wrong = (
            words
            if not isinstance(words, dict)
            else next((key for key, value in words.items() if not isinstance(value, str)), None)
        )
        if wrong is not None:
            raise InputError(
                f"[{section}]: {wrong!r} has no meaning in quotes",
                path=path,
                fix='write word = "meaning"; a word with a dot stands in quotes, too',
            )
    return {name: dict(content.get(name, {})) for name in known if whole or name in content}
