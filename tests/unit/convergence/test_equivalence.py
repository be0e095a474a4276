"""Groups of recipes that must train the same curve."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_runs import loss_curve, scale

from evenkeel.cli.main import main
from evenkeel.convergence.equivalence import Pair, compare_pairs, of_recipes, read_groups
from evenkeel.convergence.run_evidence import RunEvidence
from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import InputError
from evenkeel.metrics import series
from evenkeel.recipes import config

ROOT = Path(__file__).parents[3]
PAIR = Pair("g", "a", "b", tolerance=0.02)
REFERENCE = {"train/loss": loss_curve(1)}


def run(metrics: dict[str, dict[int, float]], **record: object) -> RunEvidence:
    return RunEvidence("", metrics, record)


def verdict(other: dict[str, dict[int, float]], pair: Pair = PAIR) -> tuple[Verdict, str]:
    (found,) = compare_pairs([pair], {"a": run(REFERENCE), "b": run(other)})
    return found.verdict, found.message


def test_the_same_curve_within_rounding_passes() -> None:
    other = {"train/loss": loss_curve(1, change=scale(1.0001))}
    assert verdict(other) == (Verdict.PASS, "within 0.0001 of a up to step 300, allowed 0.02")


def test_the_first_step_beyond_the_tolerance_is_told() -> None:
    other = {"train/loss": {s: v * (1.1 if s > 150 else 1) for s, v in loss_curve(1).items()}}
    found, message = verdict(other)
    assert found is Verdict.REGRESSED
    assert message.endswith("from step 151 on")


def test_what_is_missing_or_not_finite_never_passes() -> None:
    assert verdict({})[0] is Verdict.INCOMPLETE
    short = {"train/loss": {s: v for s, v in loss_curve(1).items() if s <= 150}}
    assert verdict(short)[0] is Verdict.INCOMPLETE
    bad = {"train/loss": loss_curve(1) | {9: math.nan}}
    assert verdict(bad) == (Verdict.NON_FINITE, "b is nan at step 9")
    (absent,) = compare_pairs([PAIR], {"a": run(REFERENCE)})
    assert (absent.verdict, absent.message) == (Verdict.INCOMPLETE, "there is no run of b")


def test_only_the_first_steps_count_where_a_pair_says_so() -> None:
    other = {"train/loss": {s: v * (1.1 if s > 150 else 1) for s, v in loss_curve(1).items()}}
    early = replace(PAIR, steps=150)
    assert verdict(other, early) == (Verdict.PASS, "within 0 of a up to step 150, allowed 0.02")
    assert verdict(other, replace(PAIR, steps=200))[0] is Verdict.REGRESSED


@pytest.mark.parametrize("key", ["seed", "lr"])
def test_runs_of_different_trainings_are_incomparable(key: str) -> None:
    records = [{"config": {"seed": 42, "policy": {"optimizer": {"lr": 1e-3}}}} for _ in "ab"]
    records[1]["config"] |= {"seed": 43} if key == "seed" else {"policy": {}}
    runs = {name: run(REFERENCE, **record) for name, record in zip("ab", records, strict=True)}
    (found,) = compare_pairs([PAIR], runs)
    assert found.verdict is Verdict.INCOMPARABLE
    assert ("its seed is 43, that of a 42" in found.message) is (key == "seed")


def test_recipes_declare_pairs_and_the_first_one_is_the_reference() -> None:
    names = ("1n2g-megatrontp2sp", "1n2g-fsdp2tp1-lora", "1n2g-megatronpp2")
    folder = ROOT / "examples/configs/recipes/llm"
    recipes = [config.load(folder / f"sft-llama-0.1m-{name}.yaml") for name in names]
    (pair,) = of_recipes(recipes)
    assert (pair.group, pair.steps) == ("letters-reversed", None)
    assert (pair.reference, pair.member) == (recipes[0].name, recipes[2].name)
    assert "train/grad_norm" in pair.metrics


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected groups by name"),
        ("g: 3", "not a mapping"),
        ("g: {members: [a]}", "two or more"),
        ("g: {members: [a, b], tolerence: 1}", "did you mean 'tolerance'"),
        ("g: {members: [a, b], tolerance: 0}", "not above 0"),
        ("g: {members: [a, b], metrics: x}", "a list of names"),
        ("g: {members: [a, b], steps: 0}", "not a positive number"),
    ],
)
def test_bad_groups_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "equivalence.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_groups(path)


def test_the_command_finds_the_members_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, factor in (("a", 1.0), ("b", 1.001), ("c", 1.2)):
        curve = loss_curve(1, change=scale(factor))
        series.save(tmp_path / "llm" / name / "metrics.json", {"train/loss": curve})
    groups = tmp_path / "equivalence.yaml"
    groups.write_text("g: {members: [a, b]}\n")
    assert main(["equivalence", "--groups", str(groups)]) == 0
    assert "PASS       g: b train/loss" in capsys.readouterr().out
    groups.write_text("g: {members: [a, b, c]}\n")
    assert main(["equivalence", "--groups", str(groups), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["member"], one["verdict"]) for one in found] == [("b", "PASS"), ("c", "REGRESSED")]
    runs = [str(tmp_path / "llm" / name) for name in "ab"]
    assert main(["equivalence", *runs]) == 0
    assert main(["equivalence", runs[0]]) == 2
    assert main(["equivalence", runs[0], str(tmp_path / "nowhere")]) == 2


def test_the_command_takes_the_groups_of_a_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, other = (f"sft-llama-0.9m-1n{layout}" for layout in ("1g-fsdp2tp1", "2g-fsdp2tp2"))
    late = {"train/loss": {s: v * (1.5 if s > 80 else 1) for s, v in loss_curve(1).items()}}
    for name, metrics in ((base, REFERENCE), (other, late)):
        series.save(tmp_path / name / "metrics.json", metrics)
    asked = ["equivalence", "--suite", "nightly_cpu", "--root", str(ROOT)]
    assert main([*asked, "--results", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    (found,) = [line for line in lines if " additions: " in line]
    assert found == (
        f"PASS       additions: {other} train/loss: within 0 of {base} up to step 80, allowed 0.01"
    )
    assert all("there is no run of" in line for line in lines if line != found)
    assert main(["equivalence", "--suite", "nightly", "--root", str(ROOT)]) == 2
