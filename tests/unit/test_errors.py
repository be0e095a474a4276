"""What a message says beside what is wrong."""

from __future__ import annotations

import pytest

from evenkeel.errors import did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("gpro", ["gspo", "grpo", "ppo"], "grpo"),
        ("gspo", ["gpso", "grpo"], "gpso"),
        ("nigthly", ["nightly", "nightly_cpu"], "nightly"),
        ("lnt", ["lint", "list", "plan"], "lint"),
        ("pt", ["tp", "pp"], "tp"),
        ("GRPO", ["gspo", "grpo"], "grpo"),
        ("grpo-a-1n8g-fsdp2tp4", ["grpo-a-8n1g-fsdp2tp4", "grpo-a-1n8g-fsdp2tp4sp"],
         "grpo-a-1n8g-fsdp2tp4sp"),
    ],
)  # fmt: skip
def test_the_nearest_word_is_meant(word: str, known: list[str], meant: str) -> None:
    assert did_you_mean(word, known) == f" (did you mean {meant!r}?)"
    assert did_you_mean(word, reversed(known)) == f" (did you mean {meant!r}?)"


@pytest.mark.parametrize("word", ["", "x", "xx", "ünïcode"])
def test_what_is_near_to_nothing_has_no_hint(word: str) -> None:
    assert did_you_mean(word, ["sft", "dpo"]) == ""
    assert did_you_mean(word, []) == ""
