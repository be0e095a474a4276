"""Every mutant finds its target in the trainers, and changes what they train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evenkeel.launch import mutation_plan
from evenkeel.launch.mutation_plan import HEALTHY, MutationRecipe, PlannedRun
from evenkeel.metrics.collection import collect
from evenkeel.recipes import config

ROOT = Path(__file__).parents[2]
SHOWN = ("train/loss", "train/grad_norm", "train/lr", "train/reward", "validation/")
SHARES = 2


def recipes() -> list[MutationRecipe]:
    return mutation_plan.of_files(ROOT, mutation_plan.own_recipes(ROOT))


def shortened(recipe: MutationRecipe) -> list[str]:
    """Four steps of a recipe, the second of which is the last of the first start."""
    loop = config.load(recipe.path).recipe.algorithm.value
    overrides = [
        f"{loop}.max_num_steps=4",
        f"{loop}.val_global_batch_size=8",
        f"{loop}.val_period=0",
        "data.num_val_samples=8",
        "policy.scheduler.warmup_steps=1",
    ]
    if "resume" in recipe.features:
        overrides += [f"{loop}.steps_per_run=2", "checkpointing.save_period=2"]
    if loop in ("dpo", "grpo"):
        overrides.append("policy.warm_start.num_steps=3")
    return overrides


def curves(folder: Path) -> dict[str, dict[int, float]]:
    found = collect(folder / "logs").metrics
    return {name: dict(series) for name, series in found.items() if name.startswith(SHOWN)}


def train(runs: list[PlannedRun], results: Path) -> None:
    jobs = []
    for run in runs:
        job = dict(mutation_plan.job(run, results))
        job["arguments"] = [*job["arguments"], *shortened(run.recipe)]
        jobs.append(json.dumps(job))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_"))}
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/mutation/train_jobs.py")],
        input="\n".join(jobs) + "\n",
        capture_output=True,
        text=True,
        env={**kept, **quiet},
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [answer["folder"] for answer in answers if answer["status"]]
    logs = [(Path(folder) / "run.log").read_text()[-2000:] for folder in failed]
    assert done.returncode == 0 and len(answers) == len(jobs) and not failed, (done.stderr, logs)


def test_there_are_many_mutants_and_a_recipe_for_each() -> None:
    mutants = mutation_plan.registry(ROOT).mutants
    assert len(mutants) >= 30
    homeless = [one.name for one in mutants if mutation_plan.recipe_of(one, recipes()) is None]
    assert homeless == []


@pytest.mark.parametrize("share", range(SHARES))
def test_every_mutant_changes_what_is_trained(share: int, tmp_path: Path) -> None:
    mine = recipes()[share::SHARES]
    names = {recipe.name for recipe in mine}
    runs = [PlannedRun(recipe, HEALTHY, 1) for recipe in mine]
    for mutant in mutation_plan.registry(ROOT).mutants:
        recipe = mutation_plan.recipe_of(mutant, recipes())
        if recipe is not None and recipe.name in names:
            runs.append(PlannedRun(recipe, mutant.name, 1))
    train(runs, tmp_path)
    void = [
        run.mutant
        for run in runs
        if run.mutant != HEALTHY
        and curves(run.folder(tmp_path))
        == curves(PlannedRun(run.recipe, HEALTHY, 1).folder(tmp_path))
    ]
    assert void == []


def test_a_target_that_is_gone_is_an_error() -> None:
    code = "from mutants.registry import Patch; Patch()('schedules:no_such_name', lambda old: old)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests/mutation")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "LookupError: schedules:no_such_name does not exist any more" in done.stderr


def test_an_unknown_mutant_is_refused_with_the_known_ones() -> None:
    script = ROOT / "tests/mutation/run_mutant.py"
    done = subprocess.run(
        [sys.executable, str(script), "no-such", "examples/run_sft.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "learning-rate-x2" in done.stderr
