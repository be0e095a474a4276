"""The mutation table in short: trained for real, judged by a committed baseline."""

from __future__ import annotations

from pathlib import Path

from evenkeel.convergence import baseline as baseline_file
from evenkeel.convergence import mutation_score
from evenkeel.convergence.mutation_score import RecipeRuns, TrainedRun
from evenkeel.launch import mutation_plan, mutation_runs
from evenkeel.launch.mutation_plan import HEALTHY, PlannedRun

ROOT = Path(__file__).parents[2]
BASELINE = Path(__file__).with_name("sft_baseline.json")
MUTANTS = ("prompt-not-masked", "embeddings-not-in-the-optimizer")


def test_planted_bugs_are_found_and_a_healthy_run_is_not_flagged(tmp_path: Path) -> None:
    recipe = mutation_plan.of_files(ROOT, [ROOT / "tests/mutation/recipes/sft.yaml"])[0]
    runs = [PlannedRun(recipe, name, 301) for name in (HEALTHY, *MUTANTS)]
    mutation_runs.train(runs, tmp_path, ROOT, 1, lambda _: None)
    trained = {
        record["mutant"]: TrainedRun(record["mutant"], record["seed"], record["status"], metrics)
        for record, metrics in mutation_runs.read_all(tmp_path)
    }
    assert {run.status for run in trained.values()} == {0}
    known = baseline_file.load(BASELINE)
    baseline = [
        TrainedRun(HEALTHY, number, 0, baseline_file.as_metrics(known, number))
        for number in range(len(known.runs))
    ]
    judged = mutation_score.score(
        [
            RecipeRuns(
                name=recipe.name,
                checks=recipe.checks,
                baseline=baseline,
                healthy=[trained[HEALTHY]],
                mutants={name: [trained[name]] for name in MUTANTS},
            )
        ],
        num_nights=0,
    )
    assert [(one.mutant, one.found) for one in judged.mutants] == [(name, True) for name in MUTANTS]
    assert judged.runs.ours == 0, judged.healthy[0].reason
    assert len(judged.detectable) == len(MUTANTS)
