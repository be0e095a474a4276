"""What is planned to be trained with bugs, and what is kept of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evenkeel.cli.main import main
from evenkeel.errors import InputError
from evenkeel.launch import mutation_plan, mutation_runs
from evenkeel.launch.mutation_plan import HEALTHY, PlannedRun

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "tests/mutation/recipes"


def planned(name: str) -> mutation_plan.MutationRecipe:
    return mutation_plan.of_files(ROOT, [RECIPES / f"{name}.yaml"])[0]


def test_features_follow_from_the_recipe() -> None:
    assert planned("sft").features == {"sft", "micro_batches", "weight_decay", "warmup", "tied"}
    assert {"dp", "dropout"} <= planned("sft_dp2").features
    assert {"tp", "bias"} <= planned("sft_tp2").features
    assert "packing" in planned("sft_packed").features
    assert {"grpo", "kl", "updates", "temperature"} <= planned("grpo").features
    assert "vision" in planned("vlm").features and "sft" not in planned("vlm").features
    resumed = planned("sft_resume")
    assert "resume" in resumed.features and resumed.num_starts == 2
    assert planned("sft_dp2").num_ranks == 2 and planned("sft").num_starts == 1


def test_a_suite_brings_the_steps_and_checks_of_its_drivers() -> None:
    found = mutation_plan.of_suite(ROOT, "nightly_cpu")
    first = next(one for one in found if one.name == "sft-llama-0.9m-1n1g-fsdp2tp1")
    assert "sft.max_num_steps=200" in first.overrides
    assert 'mean(data["train/loss"], -20, 0) < 0.05' in first.checks


def test_an_unknown_mutant_is_refused_with_the_nearest() -> None:
    mutants = mutation_plan.registry(ROOT).mutants
    with pytest.raises(InputError, match="did you mean 'learning-rate-x2'"):
        mutation_plan.selected(mutants, ["learning-rate-x3"])
    assert [one.name for one in mutation_plan.selected(mutants, ["clipping-off"])] == [
        "clipping-off"
    ]


def test_every_recipe_of_the_mutants_has_thresholds_that_read() -> None:
    found = mutation_plan.of_files(ROOT, mutation_plan.own_recipes(ROOT))
    assert len(found) >= 9
    assert all(one.checks for one in found)


def test_a_run_is_kept_whole_and_then_done(tmp_path: Path) -> None:
    run = PlannedRun(planned("sft"), HEALTHY, 1)
    assert not mutation_runs.is_done(run, tmp_path)
    run.folder(tmp_path).mkdir(parents=True)
    mutation_runs.keep(run, tmp_path, 1)
    assert mutation_runs.is_done(run, tmp_path)
    ((record, metrics),) = mutation_runs.read_all(tmp_path)
    assert (record["mutant"], record["seed"], record["status"], metrics) == (HEALTHY, 1, 1, {})


def test_a_job_keeps_its_files_in_its_own_folder(tmp_path: Path) -> None:
    job = mutation_plan.job(PlannedRun(planned("sft_dp2"), "clipping-off", 7), tmp_path)
    folder = tmp_path.resolve() / "sft_dp2/clipping-off/seed7"
    assert job["folder"] == str(folder) and job["num_ranks"] == 2
    assert "seed=7" in job["arguments"]
    assert f'logger.log_dir="{folder}/logs"' in job["arguments"]


def test_harmless_changes_and_twins_are_runs_of_the_own_seed(tmp_path: Path) -> None:
    recipes = [planned("sft"), planned("sft_dp2")]
    changes = mutation_plan.registry(ROOT).harmless
    runs = mutation_plan.harmless_runs(ROOT, recipes, changes)
    assert {run.seed for run in runs} == {mutation_plan.OWN_SEED}
    by_recipe = {one.name: {r.mutant for r in runs if r.recipe.name == one.name} for one in recipes}
    assert all(len(names) >= 4 for names in by_recipe.values())
    assert "two-ranks" in by_recipe["sft"] - by_recipe["sft_dp2"]
    ranks = next(run for run in runs if run.mutant == "two-ranks")
    job = mutation_plan.job(ranks, tmp_path)
    assert (job["num_ranks"], job["mutant"]) == (2, "two-ranks")
    assert "cluster.gpus_per_node=2" in job["arguments"]
    twin = mutation_plan.twin_runs(ROOT, recipes)[0]
    job = mutation_plan.job(twin, tmp_path)
    assert (twin.mutant, job["mutant"]) == ("twin1", HEALTHY)
    assert "policy.numeric_twin=1" in job["arguments"]


def test_mutants_are_listed_without_loading_a_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mutate", "--list", "--json", "--root", str(ROOT)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) >= 30 and all(one["seen"] and one["breaks"] for one in listed)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests/mutation')!r})\n"
        "import mutants; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_healthy_runs_that_ended_badly_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = PlannedRun(planned("sft"), HEALTHY, 1)
    run.folder(tmp_path).mkdir(parents=True)
    mutation_runs.keep(run, tmp_path, 1)
    asked = ["mutate", "--judge-only", "--resume", str(tmp_path), "--root", str(ROOT)]
    assert main(asked) == 2
    assert "healthy runs of sft ended badly: seeds [1]" in capsys.readouterr().err
