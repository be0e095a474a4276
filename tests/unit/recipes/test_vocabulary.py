"""Words and their meanings: the packaged file, a tree's own words, and slips of the pen."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes import name, vocabulary
from evenkeel.recipes.strategy import SIZES, StrategyGrammar
from evenkeel.recipes.vocabulary import UnknownWord


def tree_with(tmp_path: Path, text: str) -> Path:
    suites = tmp_path / "tests" / "test_suites"
    suites.mkdir(parents=True)
    (suites / vocabulary.FILE_NAME).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_packaged_strategies_are_those_of_the_grammar() -> None:
    words = set(vocabulary.load().strategies)
    assert words == {*StrategyGrammar().backends, *SIZES, "sp"}


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("llama3.1-8b-instruct", "llama3.1"),
        ("qwen2.5-math-1.5b-instruct", "qwen2.5-math"),
        ("nanov3-30BA3B", "nanov3"),
        ("mistral-nemo-instruct-2407", "mistral-nemo"),
        ("helpsteer3-llama-3.3-nemotron-super-49b-v1.5", "nemotron-super"),
        ("dapomath17k-dsv3", "dsv3"),
        ("math-qwen3-30ba3b", "qwen3"),
        ("gpt-oss-20b", "gpt-oss"),
        ("optimal-7b", None),
        ("lama3-8b", None),
    ],
)
def test_families_are_found_anywhere_in_the_model(model: str, family: str | None) -> None:
    assert vocabulary.load().family(model) == family


def test_compounds_and_numbers_in_modifiers() -> None:
    words = ["fp8", "rollouts", "temp0.8", "async", "8off", "lora16", "40K", "whatever"]
    assert list(vocabulary.load().modifier_meanings(words)) == [
        ("fp8-rollouts", "FP8 in generation only"),
        ("temp0.8", "sampling temperature 0.8"),
        ("async-8off", "generation runs up to 8 steps ahead of training"),
        ("lora16", "low-rank adapters of rank 16 are trained, the weights are frozen"),
        ("40K", "sequences of 40 × 1024 tokens"),
        ("whatever", None),
    ]


def test_unknown_words_name_the_nearest_known_one() -> None:
    read = name.parse("gpro-lama3-8b-1n8g-fsdp2tp1-acktckpt-zzz")
    assert vocabulary.load().unknown_words(read) == [
        UnknownWord("algorithms", "gpro", "grpo"),
        UnknownWord("models", "lama3-8b", "llama3"),
        UnknownWord("modifiers", "acktckpt", "actckpt"),
        UnknownWord("modifiers", "zzz", None),
    ]
    slips = [unknown.likely_slip for unknown in vocabulary.load().unknown_words(read)]
    assert slips == [True, True, True, False]


def test_a_tree_adds_its_words(tmp_path: Path) -> None:
    root = tree_with(
        tmp_path,
        '[algorithms]\nkto = "Kahneman-Tversky optimisation"\n'
        '[models]\nowl = "Owl"\n[strategies]\nflux = "Flux"\n[modifiers]\n"w#" = "width #"\n',
    )
    words = vocabulary.load(root)
    read = name.parse("kto-owl-8b-1n8g-fluxtp2-w4", grammar=words.grammar)
    assert read.strategy.backend == "flux"
    assert words.unknown_words(read) == []
    assert dict(words.modifier_meanings(read.modifiers)) == {"w4": "width 4"}
    assert words.algorithms["sft"] == vocabulary.load().algorithms["sft"]
    with pytest.raises(name.InvalidNameError):
        name.parse("kto-owl-8b-1n8g-fluxtp2-w4")


def test_a_tree_without_words_of_its_own_has_the_packaged_ones(tmp_path: Path) -> None:
    assert vocabulary.load(tmp_path) == vocabulary.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[modifiers]\nx = 3\n", "'x' has no meaning in quotes"),
        ("[modifers]\nx = 'y'\n", "did you mean 'modifiers'?"),
        ("models = 3\n", "[models]"),
        ("[models\n", "not TOML"),
    ],
)
def test_a_wrong_file_of_words_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        vocabulary.load(tree_with(tmp_path, text))
    assert message in caught.value.message
    assert caught.value.path is not None and caught.value.path.endswith("vocabulary.toml")


def test_words_that_several_names_use_can_be_learned() -> None:
    names = [
        name.parse(text)
        for text in (
            "kto-owl-8b-1n8g-tp1-zip",
            "kto-owl-9b-1n8g-tp1-zap",
            "sft-owl-8b-1n8g-tp1-zip",
        )
    ]
    words = vocabulary.learned(vocabulary.load(), names)
    left = {unknown.word for read in names for unknown in words.unknown_words(read)}
    assert left == {"zap"}
