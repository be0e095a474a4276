"""A run directory in a repository with baselines: matched, compared, folded into its verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_runs import run, scale

from evenkeel import run_record
from evenkeel.convergence import baseline as files
from evenkeel.convergence import baseline_files, baseline_recording, judgement
from evenkeel.convergence.baseline import Acceptance
from evenkeel.convergence.baseline_judgement import compare_evidence, pooled_priors
from evenkeel.convergence.comparison import Options
from evenkeel.convergence.metric_kinds import kind_of
from evenkeel.convergence.results import Comparison
from evenkeel.convergence.run_evidence import read_evidence
from evenkeel.convergence.verdict import Verdict
from evenkeel.metrics import series
from evenkeel.run_paths import Repository, RunPaths

NAME = "sft-x-1n1g-fsdp2tp1"
CPU = {"device": "cpu", "device_name": "cpu", "device_count": 1, "cpu": "Xeon"}
ACCEPTED = Acceptance("me", "2026-01-01T00:00:00+00:00", "first")


def make_run(
    root: Path, seed: int, factor: float = 1.0, folder: str = NAME, **record: Any
) -> RunPaths:
    paths = RunPaths(root / "tests" / "test_suites" / "llm" / folder)
    series.save(paths.metrics, run(seed, change=scale(factor)))
    known = {"recipe": NAME, "config": {"seed": seed}, "platform": CPU, "packages": {"torch": "2"}}
    run_record.add(paths.run_json, {**known, **record})
    return paths


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    runs = [read_evidence(make_run(tmp_path, seed, folder=f"s{seed}").root)
            for seed in range(5)]  # fmt: skip
    made = baseline_recording.of_evidence(runs, recipe=NAME, accepted=ACCEPTED)
    found = Repository(tmp_path)
    files.save(made, baseline_files.standard_path(made, tmp_path))
    assert baseline_files.of_recipe(found, NAME) == [
        tmp_path / "tests" / "baselines" / "llm" / NAME / "cpu.json"
    ]
    return found


def judge(paths: RunPaths, *checks: str, max_steps: int | None = 300) -> judgement.Judgement:
    return judgement.judge_run(paths, checks, max_steps)


def test_the_baseline_judges_a_run_of_its_recipe(repository: Repository) -> None:
    judged = judge(make_run(repository.root, 50))
    assert judged.verdict is Verdict.PASS
    assert judged.comparison is not None
    assert judgement.as_json(judged)["comparison"]["verdict"] == "PASS"
    assert judge(make_run(repository.root, 50, 1.2)).verdict is Verdict.REGRESSED


def test_checks_stay_and_are_reported_apart(repository: Repository) -> None:
    paths = make_run(repository.root, 50, 0.8)
    assert judge(paths, 'max(data["train/loss"]) < 99').verdict is Verdict.IMPROVED
    failed = judge(paths, 'max(data["train/loss"]) < 1')
    assert failed.verdict is Verdict.REGRESSED
    assert failed.message == "1 of 1 check failed"
    assert failed.comparison is not None and failed.comparison.verdict is Verdict.IMPROVED


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"config": {"seed": 3, "data": {"dataset": "other"}}}, "bump its .vN"),
        ({"platform": {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}}, "was on h100"),
    ],
)
def test_another_recipe_or_platform_is_incomparable(
    repository: Repository, record: dict[str, Any], message: str
) -> None:
    judged = judge(make_run(repository.root, 50, **record), 'max(data["train/loss"]) < 99')
    assert judged.verdict is Verdict.INCOMPARABLE
    assert message in judged.message


def test_a_shorter_training_is_incomparable(repository: Repository) -> None:
    judged = judge(make_run(repository.root, 50), max_steps=100)
    assert judged.verdict is Verdict.INCOMPARABLE
    assert "it was to end at step 100, the runs of its baseline at 300" in judged.message


def test_another_processor_and_library_is_compared_with_a_note(repository: Repository) -> None:
    other = {"platform": {**CPU, "cpu": "EPYC"}, "packages": {"torch": "3"}}
    judged = judge(make_run(repository.root, 50, **other))
    assert judged.verdict is Verdict.PASS
    assert judged.comparison is not None
    assert judged.comparison.notes == ("since the baseline: torch 2 -> 3, cpu Xeon -> EPYC",)


def test_speed_is_judged_on_the_same_kind_of_node_only(tmp_path: Path) -> None:
    def timed(seed: int, step_s: float, **record: Any) -> RunPaths:
        paths = make_run(tmp_path, seed, folder=f"t{seed}", **record)
        metrics = dict(series.load(paths.metrics))
        noise = np.random.default_rng(seed).standard_normal(300)
        metrics["timing/train/total_step_time"] = dict(
            enumerate((step_s * np.exp(0.02 * noise)).tolist(), start=1)
        )
        series.save(paths.metrics, metrics)
        return paths

    recorded = [read_evidence(timed(seed, 1.0).root) for seed in range(5)]
    baseline = baseline_recording.of_evidence(recorded, recipe=NAME, accepted=ACCEPTED)

    def compared(paths: RunPaths) -> Comparison:
        return compare_evidence(baseline, [read_evidence(paths.root)], Options())

    here = compared(timed(50, 1.5))
    assert here.verdict is Verdict.PASS
    assert {one.label for one in here.speed_notes()} == {"SLOWER"}
    there = compared(timed(51, 1.5, platform={**CPU, "cpu": "EPYC"}))
    assert there.speed_notes() == []
    assert "speed is not judged: recorded on 1 x Xeon, this is 1 x EPYC" in there.notes
    times = {name: one for name, one in baseline.curves.items() if name.startswith("timing/")}
    only_speed = replace(baseline, curves=times)
    elsewhere = read_evidence(timed(51, 1.5, platform={**CPU, "cpu": "EPYC"}).root)
    found = compare_evidence(only_speed, [elsewhere], Options())
    assert found.verdict is Verdict.INCOMPARABLE


def test_recipes_of_the_same_algorithm_tell_what_spreads_are_usual(tmp_path: Path) -> None:
    """Six noisy recipes widen the prior of a calm one of their algorithm, and of no other."""

    def baseline(recipe: str, noise: float) -> files.Baseline:
        runs = []
        for seed in range(3):
            factor = float(np.exp(noise * np.random.default_rng([seed, 3]).standard_normal()))
            runs.append(read_evidence(make_run(tmp_path, seed, factor, f"{recipe}-{seed}").root))
        return baseline_recording.of_evidence(runs, recipe=recipe, accepted=ACCEPTED)

    for number in range(6):
        noisy = baseline(f"sft-x{number}-1n1g-fsdp2tp1", 0.3)
        files.save(noisy, tmp_path / "pool" / f"{number}.json")

    def center(recipe: str) -> float:
        priors = pooled_priors([tmp_path / "pool"], baseline(recipe, 0.0))
        return priors["train/loss"].log_center if priors else kind_of("train/loss").prior.log_center

    usual = kind_of("train/loss").prior.log_center
    assert center("sft-calm-1n1g-fsdp2tp1") > usual + 1
    assert center("mine") > usual + 1
    assert center("dpo-calm-1n1g-fsdp2tp1") == usual


def test_a_confirming_run_beside_it_is_combined(repository: Repository) -> None:
    first = judge(make_run(repository.root, 50, 1.018))
    assert first.verdict is Verdict.INCONCLUSIVE
    make_run(repository.root, 51, folder=f"{NAME}.confirm1")
    second = judge(RunPaths(first_path(repository)))
    assert second.comparison is not None
    assert second.comparison.num_new == 2
    assert second.verdict is Verdict.PASS


def first_path(repository: Repository) -> Path:
    return repository.root / "tests" / "test_suites" / "llm" / NAME


def test_a_retired_baseline_has_no_say(repository: Repository) -> None:
    from dataclasses import replace

    path = baseline_files.of_recipe(repository, NAME)[0]
    files.save(replace(files.load(path), retired=ACCEPTED), path)
    assert judge(make_run(repository.root, 50)).verdict is Verdict.NO_BASELINE


def test_bits_are_compared_on_the_same_numerics(repository: Repository) -> None:
    from dataclasses import replace

    path = baseline_files.of_recipe(repository, NAME)[0]
    sources = [
        read_evidence(RunPaths(first_path(repository).with_name(f"s{seed}")).root)
        for seed in range(5)
    ]
    made = baseline_recording.of_evidence(
        sources, recipe=NAME, accepted=ACCEPTED, exact=True, bit_exact=True
    )
    files.save(made, path)
    same = judge(make_run(repository.root, 3))
    assert same.comparison is not None
    assert same.comparison.notes == ("bit for bit the same as run4",)
    paths = make_run(repository.root, 3)
    metrics = series.load(paths.metrics)
    metrics["train/loss"][7] += 1e-12
    series.save(paths.metrics, metrics)
    other = judge(paths)
    assert other.verdict is Verdict.REGRESSED
    assert "first bit difference from run4 at step 7" in other.message
    files.save(replace(made, bit_exact=False), path)
    assert judge(paths).verdict is Verdict.PASS
