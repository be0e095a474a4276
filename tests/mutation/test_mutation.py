"""The mutation table in short: one small recipe, baseline, twin and mutants trained on the spot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evenkeel.convergence import mutation_score
from evenkeel.convergence.mutation_judge import RecipeRuns, TrainedRun
from evenkeel.convergence.verdict import Verdict
from evenkeel.launch import mutation_plan, mutation_runs
from evenkeel.launch.mutation_plan import HEALTHY, OWN_SEED, MutationRecipe, PlannedRun

ROOT = Path(__file__).parents[2]
LARGE = "prompt-not-masked"
MUTANTS = (LARGE, "learning-rate-x1.1", "last-micro-batch-dropped", "schedule-one-step-late")
BASELINE_SEEDS = (OWN_SEED, 2, 3)
FRESH_SEED = 101
STEPS = 12
SHORT = (
    f"sft.max_num_steps={STEPS}",
    f"sft.val_period={STEPS}",
    "sft.val_global_batch_size=32",
    "data.num_val_samples=32",
    "policy.scheduler.warmup_steps=2",
)


def short_recipe() -> MutationRecipe:
    recipe = mutation_plan.of_files(ROOT, [ROOT / "tests/mutation/recipes/sft.yaml"])[0]
    return replace(recipe, overrides=SHORT)


def trained(recipe: MutationRecipe, results: Path) -> dict[tuple[str, int], TrainedRun]:
    """Every run of the table, by name and seed."""
    changes = [
        one for one in mutation_plan.registry(ROOT).harmless if one.name == "micro-batches-of-8"
    ]
    seeds = (*BASELINE_SEEDS, FRESH_SEED)
    runs = [PlannedRun(recipe, HEALTHY, seed, plants=False) for seed in seeds]
    runs += mutation_plan.twin_runs(ROOT, [recipe])[:1]
    runs += mutation_plan.harmless_runs(ROOT, [recipe], changes)
    runs += [PlannedRun(recipe, name, OWN_SEED) for name in MUTANTS]
    mutation_runs.train(runs, results, ROOT, 1, lambda _: None)
    return {
        (record["mutant"], record["seed"]): TrainedRun(
            record["mutant"], record["seed"], record["status"], metrics
        )
        for record, metrics in mutation_runs.read_all(results)
    }


def test_planted_bugs_are_found_and_healthy_and_harmless_runs_are_not(tmp_path: Path) -> None:
    recipe = short_recipe()
    runs = trained(recipe, tmp_path)
    assert {run.status for run in runs.values()} == {0}
    judged = mutation_score.score(
        [
            RecipeRuns(
                name=recipe.name,
                checks=recipe.checks,
                baseline=[runs[HEALTHY, seed] for seed in BASELINE_SEEDS],
                healthy=[runs[HEALTHY, FRESH_SEED]],
                mutants={name: [runs[name, OWN_SEED]] for name in MUTANTS},
                twins=[runs[mutation_plan.twin_name(1), OWN_SEED]],
                harmless={"micro-batches-of-8": runs["micro-batches-of-8", OWN_SEED]},
            )
        ],
        num_nights=0,
    )
    assert {one.mutant: one.found for one in judged.mutants} == dict.fromkeys(MUTANTS, True)
    by_name = {one.mutant: one for one in judged.mutants}
    assert by_name[LARGE].by_statistics is Verdict.REGRESSED
    assert judged.runs.ours == 0, judged.healthy[0].reason
    (harmless,) = judged.harmless
    assert not harmless.found, harmless.reason
    assert harmless.ratio is not None and harmless.ratio > 0  # it does round otherwise
