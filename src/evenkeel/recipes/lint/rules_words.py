"""Names: their grammar, and the words that they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.recipes import name, name_exception, vocabulary
from evenkeel.recipes.lint.claims import is_algorithm, is_layout, read_claims, words_of
from evenkeel.recipes.lint.registry import Finding, Severity, Subject, declare, looks_at
from evenkeel.recipes.lint.setup import setup_of_driver
from evenkeel.recipes.lint.tree import Tree, mirrored_driver

GRAMMAR = declare(
    "EK201",
    "name breaks the grammar",
    reason="The name is what people see: without its parts nobody knows what a recipe covers.",
    fix=f"Rename driver and recipe to {name.SHAPE}.",
)
WORD = declare(
    "EK202",
    "unknown word in a name",
    reason="A mistyped word starts a second family that no filter finds.",
    fix="Correct it, or add it to tests/test_suites/vocabulary.toml with its meaning.",
    severity=Severity.WARNING,
)
_LEAST_LETTERS = 5


@looks_at(Subject.DRIVER, GRAMMAR, WORD)
def driver_is_well_named(tree: Tree, path: str) -> Iterator[Finding]:
    """The driver's name, which is also its recipe's."""
    driver = tree.driver(path)
    if driver.problem is not None:
        return
    setup = setup_of_driver(tree, path)
    ours = tree.is_ours if setup is None else setup.is_ours
    yield from _name(tree, path, driver.text, ours)


@looks_at(Subject.RECIPE, GRAMMAR, WORD)
def lone_recipe_is_well_named(tree: Tree, path: str) -> Iterator[Finding]:
    """The name of a recipe that has no driver."""
    if tree.exists(mirrored_driver(path)) or Path(path).name in tree.inherited:
        return
    if tree.is_ours:
        yield from _name(tree, path, "", True)


def _name(tree: Tree, path: str, text: str, ours: bool) -> Iterator[Finding]:
    stem = Path(path).stem
    try:
        declared = name_exception.find(text, path)
    except InputError as problem:
        yield Finding(
            GRAMMAR.code, path, problem.line or 1, problem.message, problem.fix or GRAMMAR.fix
        )
        return
    if ours:
        yield from _strict(tree, path, stem, declared is not None)
        return
    claims = read_claims(stem)
    if not claims.looks_like_a_recipe and declared is None and tree.states_allocations:
        yield Finding(
            GRAMMAR.code,
            path,
            1,
            "the name does not say on how many nodes and GPUs it runs",
            f"rename it to {name.SHAPE}, or declare the exception: {name_exception.SYNTAX}",
        )
    first = words_of(stem)[0]
    if tree.begins_with_algorithms and not is_algorithm(first):
        yield Finding(
            GRAMMAR.code,
            path,
            1,
            f"the name begins with {first!r}, which is no algorithm: one is written in small "
            "letters and digits, such as sft or grpo",
            f"rename it to {name.SHAPE}",
        )
    yield from _slips(tree, path, stem)


def _strict(tree: Tree, path: str, stem: str, declared: bool) -> Iterator[Finding]:
    try:
        parsed = name.parse(stem, declared=declared)
    except name.InvalidNameError as problem:
        yield Finding(GRAMMAR.code, path, 1, problem.message, problem.fix or GRAMMAR.fix)
        return
    if parsed.needs_declaration and not declared:
        yield Finding(
            GRAMMAR.code,
            path,
            1,
            "the name states no allocation or no strategy, and the driver does not say why",
            f"write in the driver: {name_exception.SYNTAX}",
        )
    try:
        words = vocabulary.load(tree.root)
    except InputError:
        return
    for unknown in words.unknown_words(parsed):
        yield Finding(WORD.code, path, 1, unknown.message, unknown.fix)


def _slips(tree: Tree, path: str, stem: str) -> Iterator[Finding]:
    """Words of this name alone that are one letter away from a word of several others."""
    for position, word in enumerate(words_of(stem)):
        if tree.words[word] > 1 or is_layout(word) or _is_in_vocabulary(word):
            continue
        if position and sum(map(str.isalpha, word)) < _LEAST_LETTERS:
            continue
        for other in tree.frequent_words:
            # algorithms are short and look alike: dpo, rpo and ppo are three
            if position == 0 and sorted(word) != sorted(other):
                continue
            if abs(len(other) - len(word)) <= 1 and _one_letter_apart(word, other):
                yield Finding(
                    WORD.code,
                    path,
                    1,
                    f"no other name has the word {word!r}; did you mean {other!r}?",
                    "rename driver and recipe, or add the word to "
                    "tests/test_suites/vocabulary.toml",
                )
                break


def _is_in_vocabulary(word: str) -> bool:
    packaged = vocabulary.load()
    known = (packaged.algorithms, packaged.modifiers, packaged.datasets)
    return any(word in words for words in known) or packaged.family(word) is not None


def _one_letter_apart(left: str, right: str) -> bool:
    """One letter more, less, other, or two neighbours changed round; plurals do not count."""
    if left.lower() == right.lower() or left.rstrip("s") == right.rstrip("s"):
        return False
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    end = 0
    while end < min(len(left), len(right)) - start and left[-1 - end] == right[-1 - end]:
        end += 1
    a, b = left[start : len(left) - end], right[start : len(right) - end]
    if not all(char.isalpha() for char in a + b):
        return False
    return (len(a) <= 1 and len(b) <= 1) or (len(a) == len(b) == 2 and a == b[::-1])
