"""Baseline files: what is written reads back, and what is damaged is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from simulated_runs import run

from evenkeel.convergence import baseline as files
from evenkeel.convergence import baseline_recording
from evenkeel.convergence.baseline import Acceptance
from evenkeel.convergence.metric_kinds import Direction
from evenkeel.convergence.run_evidence import RunEvidence
from evenkeel.errors import InputError

ACCEPTED = Acceptance("somebody", "2026-01-01T00:00:00+00:00", "first")


def evidence(seed: int, **record: object) -> RunEvidence:
    return RunEvidence(f"run{seed}", {**run(seed, num_steps=20), "val": {10: 0.5, 20: 1.0}}, record)


@pytest.mark.parametrize("exact", [False, True])
def test_a_baseline_reads_back_as_it_was(tmp_path: Path, exact: bool) -> None:
    made = baseline_recording.of_evidence(
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
    made = baseline_recording.of_evidence([evidence(1), evidence(2)], recipe="x", accepted=ACCEPTED)
    lines = [line.strip() for line in files.dumps(made).splitlines()]
    assert sum(line.startswith('"run1": [') for line in lines) == 2
    assert '"steps": "1:20:1",' in lines
    assert json.loads(files.dumps(made))["schema_version"] == 1


def test_runs_are_added_and_the_history_is_kept() -> None:
    made = baseline_recording.of_evidence([evidence(1)], recipe="x", accepted=ACCEPTED)
    later = Acceptance("other", "2026-02-01T00:00:00+00:00", "more")
    more = baseline_recording.with_runs(made, [evidence(2)], later)
    assert [one.name for one in more.runs] == ["run1", "run2"]
    assert (more.accepted, more.history) == (later, (ACCEPTED,))
    assert more.curves["train/loss"].values.shape == (2, 20)


def test_seeds_share_a_fingerprint_and_other_changes_do_not() -> None:
    one, two = ({"seed": seed, "data": {"dataset": "a"}} for seed in (1, 2))
    other = {"seed": 1, "data": {"dataset": "b"}, "algorithm": "sft"}
    made = baseline_recording.of_evidence(
        [evidence(1, config={**one, "algorithm": "sft"}),
         evidence(2, config={**two, "algorithm": "sft"})],
        recipe="x", accepted=ACCEPTED,
    )  # fmt: skip
    assert [run.seed for run in made.runs] == [1, 2]
    with pytest.raises(InputError, match="another configuration"):
        baseline_recording.with_runs(made, [evidence(3, config=other)], ACCEPTED)
    with pytest.raises(InputError, match="different configurations"):
        baseline_recording.of_evidence(
            [evidence(1, config=other), evidence(2, config={**one, "algorithm": "sft"})],
            recipe="x",
            accepted=ACCEPTED,
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a baseline file: Expecting value.*\n  fix: 'evenkeel baseline record"),
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
        baseline_recording.of_evidence([evidence(1), other], recipe="x", accepted=ACCEPTED)


def twin(seed: int, number: int = 1, **record: object) -> RunEvidence:
    return evidence(seed, config={"seed": seed, "policy": {"numeric_twin": number}}, **record)


def original(seed: int, **record: object) -> RunEvidence:
    return twin(seed, 0, **record)


def test_twins_are_told_from_runs_and_read_back(tmp_path: Path) -> None:
    made = baseline_recording.of_evidence(
        [twin(2, 7), original(1), original(2)], recipe="x", accepted=ACCEPTED, exact=True
    )
    assert [(one.name, one.seed) for one in made.runs] == [("run1", 1), ("run2", 2)]
    assert [(one.name, one.seed, one.numeric_twin) for one in made.twins] == [("twin1", 2, 7)]
    files.save(made, tmp_path / "b.json")
    read = files.load(tmp_path / "b.json")
    assert read.twins == made.twins
    assert {name: curve.values.shape for name, curve in read.curves.items()} == {
        "train/loss": (2, 20), "val": (2, 2),
    }  # fmt: skip
    assert files.twin_metrics(read, 0) == twin(2).metrics


def test_a_twin_added_later_leaves_the_runs_alone() -> None:
    made = baseline_recording.of_evidence([original(1), original(2)], recipe="x", accepted=ACCEPTED)
    more = baseline_recording.with_runs(made, [twin(1), original(3)], ACCEPTED)
    assert [one.name for one in (*more.runs, *more.twins)] == ["run1", "run2", "run3", "twin1"]
    assert files.as_metrics(more, 2) == original(3).metrics
    assert files.twin_metrics(more, 0) == original(1).metrics


def test_a_twin_that_tells_nothing_of_the_runs_is_refused() -> None:
    with pytest.raises(InputError, match="twin of seed 3, and no run has that seed"):
        baseline_recording.of_evidence([original(1), twin(3)], recipe="x", accepted=ACCEPTED)
    with pytest.raises(InputError, match="at least one run that is no numeric twin"):
        baseline_recording.of_evidence([twin(1)], recipe="x", accepted=ACCEPTED)
    here, there = ({"device": "cpu", "cpu": name} for name in ("one", "other"))
    with pytest.raises(InputError, match="another platform: cpu one -> other"):
        baseline_recording.of_evidence(
            [original(1, platform=here), twin(1, platform=there)], recipe="x", accepted=ACCEPTED
        )


def test_an_absolute_source_keeps_its_last_two_names() -> None:
    runs = [RunEvidence(place, run(1), {}) for place in ("/home/me/runs/seed1/sft-x", "runs/a")]
    made = baseline_recording.of_evidence(runs, recipe="x", accepted=ACCEPTED)
    assert [one.source for one in made.runs] == ["seed1/sft-x", "runs/a"]


def test_metrics_are_left_out_by_pattern() -> None:
    kept = evidence(1).without(["train/*", "timing/*"])
    assert list(kept.metrics) == ["val"]
    assert kept.source == "run1"
