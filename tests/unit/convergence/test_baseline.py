"""Baseline files: what is written reads back, and what is damaged is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from simulated_runs import run

from evenkeel.convergence import baseline as files
from evenkeel.convergence.baseline import Acceptance, RunEvidence
from evenkeel.convergence.metric_kinds import Direction
from evenkeel.errors import InputError

ACCEPTED = Acceptance("somebody", "2026-01-01T00:00:00+00:00", "first")


def evidence(seed: int, **record: object) -> RunEvidence:
    return RunEvidence(f"run{seed}", {**run(seed, num_steps=20), "val": {10: 0.5, 20: 1.0}}, record)


@pytest.mark.parametrize("exact", [False, True])
def test_a_baseline_reads_back_as_it_was(tmp_path: Path, exact: bool) -> None:
    made = files.of_evidence(
        [evidence(1), evidence(2)],
        recipe="x",
        accepted=ACCEPTED,
        directions={"val": Direction.HIGHER},
        exact=exact,
    )
    made.curves["train/loss"].values[0, 3] = math.nan
    path = tmp_path / "b.json"
    files.save(made, path)
    read = files.load(path)
    assert (read.recipe, read.accepted, read.runs) == ("x", ACCEPTED, made.runs)
    assert read.directions == {"val": "higher"}
    for name, curve in made.curves.items():
        np.testing.assert_array_equal(read.curves[name].steps, curve.steps)
        tolerance = 0.0 if exact else 1e-6
        np.testing.assert_allclose(read.curves[name].values, curve.values, rtol=tolerance)


def test_a_run_is_one_line_per_metric(tmp_path: Path) -> None:
    made = files.of_evidence([evidence(1), evidence(2)], recipe="x", accepted=ACCEPTED)
    lines = [line.strip() for line in files.dumps(made).splitlines()]
    assert sum(line.startswith('"run1": [') for line in lines) == 2
    assert '"steps": "1:20:1",' in lines
    assert json.loads(files.dumps(made))["schema_version"] == 1


def test_runs_are_added_and_the_history_is_kept() -> None:
    made = files.of_evidence([evidence(1)], recipe="x", accepted=ACCEPTED)
    later = Acceptance("other", "2026-02-01T00:00:00+00:00", "more")
    more = files.with_runs(made, [evidence(2)], later)
    assert [one.name for one in more.runs] == ["run1", "run2"]
    assert (more.accepted, more.history) == (later, (ACCEPTED,))
    assert more.curves["train/loss"].values.shape == (2, 20)


def test_seeds_share_a_fingerprint_and_other_changes_do_not() -> None:
    one, two = ({"seed": seed, "data": {"dataset": "a"}} for seed in (1, 2))
    other = {"seed": 1, "data": {"dataset": "b"}, "algorithm": "sft"}
    made = files.of_evidence(
        [evidence(1, config={**one, "algorithm": "sft"}),
         evidence(2, config={**two, "algorithm": "sft"})],
        recipe="x", accepted=ACCEPTED,
    )  # fmt: skip
    assert [run.seed for run in made.runs] == [1, 2]
    with pytest.raises(InputError, match="another configuration"):
        files.with_runs(made, [evidence(3, config=other)], ACCEPTED)
    with pytest.raises(InputError, match="different configurations"):
        files.of_evidence(
            [evidence(1, config=other), evidence(2, config={**one, "algorithm": "sft"})],
            recipe="x",
            accepted=ACCEPTED,
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read"),
        ("[]", "not a baseline"),
        ('{"train/loss": {"1": 2}}', "not a baseline"),
        ('{"schema_version": 9, "runs": [], "metrics": {}}', "schema_version 9"),
        ('{"schema_version": 1, "runs": [], "metrics": {}}', "damaged"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        files.load(path)


def test_runs_without_a_common_metric_are_refused() -> None:
    other = RunEvidence("b", {"b": {1: 1.0}}, {})
    with pytest.raises(InputError, match="no metric with a step in common"):
        files.of_evidence([evidence(1), other], recipe="x", accepted=ACCEPTED)
