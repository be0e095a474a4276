"""``evenkeel mutate`` as far as it trains nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenkeel.cli.main import main

ROOT = Path(__file__).parents[3]
SFT = str(ROOT / "tests/mutation/recipes/sft.yaml")


def listed(*words: str) -> list[str]:
    return ["mutate", "--list", "--json", "--root", str(ROOT), *words]


def test_a_list_has_the_mutants_that_can_show_in_the_recipes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(listed()) == 0
    every = json.loads(capsys.readouterr().out)
    assert main(listed("--recipes", SFT)) == 0
    told = capsys.readouterr()
    there = json.loads(told.out)
    assert told.err == f"{len(there)} of {len(every)} mutants can show in these recipes\n"
    names = {one["name"] for one in there}
    assert {one["name"] for one in every if not one["needs"]} <= names
    assert not names & {one["name"] for one in every if {"grpo", "vision"} & set(one["needs"])}
    assert names & {one["name"] for one in every if "sft" in one["needs"]}


def test_a_list_of_one_that_has_no_home_there_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(listed("--recipes", SFT, "--mutants", " vision-tower-frozen, padding-trained")) == 0
    told = capsys.readouterr()
    assert [one["name"] for one in json.loads(told.out)] == ["padding-trained"]
    assert told.err == "1 of 2 mutants can show in these recipes\n"


def test_an_unknown_suite_is_refused_when_only_listing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(listed("--suite", "nigthly")) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "no suite 'nigthly' (did you mean 'nightly'?)" in told.err
