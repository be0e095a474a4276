"""Every mutant has a recipe to show in, and finds its target in the trainers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from evenkeel.launch import mutation_plan
from evenkeel.launch.mutation_plan import MutationRecipe

ROOT = Path(__file__).parents[2]
PLANT_ALL = """
import json, os, sys, traceback
import train_jobs
from mutants import HARMLESS, MUTANTS, plant
train_jobs.preload()
failed = {}
for name in [*MUTANTS, *HARMLESS]:
    process = os.fork()
    if process == 0:
        try:
            plant(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        failed[name] = True
print(json.dumps(list(failed)))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_"))}
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    path = {"PYTHONPATH": str(ROOT / "tests/mutation")}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**kept, **quiet, **path},
        check=False,
    )


def recipes() -> list[MutationRecipe]:
    return mutation_plan.of_files(ROOT, mutation_plan.own_recipes(ROOT))


def test_there_are_many_mutants_and_a_recipe_for_each() -> None:
    mutants = mutation_plan.registry(ROOT).mutants
    assert len(mutants) >= 30
    homeless = [one.name for one in mutants if mutation_plan.recipe_of(one, recipes()) is None]
    assert homeless == []


def test_there_are_harmless_changes_for_every_recipe() -> None:
    runs = mutation_plan.harmless_runs(ROOT, recipes(), mutation_plan.registry(ROOT).harmless)
    names = [run.recipe.name for run in runs]
    assert {one.name: names.count(one.name) >= 4 for one in recipes()} == dict.fromkeys(
        (one.name for one in recipes()), True
    )


def test_every_mutant_and_harmless_change_can_be_planted() -> None:
    done = python("-c", PLANT_ALL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [], done.stderr


def test_a_target_that_is_gone_is_an_error() -> None:
    done = python(
        "-c",
        "from mutants.registry import Patch; Patch()('schedules:no_such_name', lambda old: old)",
    )
    assert done.returncode == 1
    assert "LookupError: schedules:no_such_name does not exist any more" in done.stderr


def test_an_unknown_mutant_is_refused_with_the_known_ones() -> None:
    done = python(str(ROOT / "tests/mutation/run_mutant.py"), "no-such", "examples/run_sft.py")
    assert done.returncode == 2
    assert "learning-rate-x2" in done.stderr
