"""Groups of recipes that must train the same curve."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from simulated_runs import loss_curve, scale

from evenkeel.cli.main import main
from evenkeel.convergence.equivalence import Group, compare_group, read_groups
from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import InputError
from evenkeel.metrics import series

GROUP = Group("g", ("a", "b"), tolerance=0.02)
REFERENCE = {"train/loss": loss_curve(1)}


def verdict(other: dict[str, dict[int, float]]) -> tuple[Verdict, str]:
    (found,) = compare_group(GROUP, {"a": REFERENCE, "b": other})
    return found.verdict, found.message


def test_the_same_curve_within_rounding_passes() -> None:
    other = {"train/loss": loss_curve(1, change=scale(1.0001))}
    assert verdict(other) == (Verdict.PASS, "within 0.01% throughout, allowed 2.00%")


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
    (absent,) = compare_group(GROUP, {"a": REFERENCE})
    assert absent.message == "there is no run of b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected groups by name"),
        ("g: 3", "not a mapping"),
        ("g: {members: [a]}", "two or more"),
        ("g: {members: [a, b], tolerence: 1}", "did you mean 'tolerance'"),
        ("g: {members: [a, b], tolerance: 0}", "not above 0"),
        ("g: {members: [a, b], metrics: x}", "a list of names"),
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
