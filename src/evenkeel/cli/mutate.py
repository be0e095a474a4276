"""``evenkeel mutate``: plant bugs into the trainers, and count who finds them."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError
from evenkeel.run_paths import Repository

if TYPE_CHECKING:
    from evenkeel.convergence.mutation_score import RecipeRuns, Score
    from evenkeel.launch.mutation_plan import Mutant, MutationRecipe

EPILOG = """\
examples:
  evenkeel mutate --list
  evenkeel mutate --resume results                     # the small recipes of tests/mutation
  evenkeel mutate --resume results --judge-only        # judge again what is trained
  evenkeel mutate --suite nightly_cpu --healthy 20
  evenkeel mutate --mutants learning-rate-x2,labels-shifted-twice --healthy 10

Trains baseline runs, healthy runs with fresh seeds, and each mutant on the first recipe in which
its bug can show; then judges all of them three ways. Every run that is done is kept in the folder
of results, so an interrupted call goes on where it stopped: give the same --resume.

exit status: 0 ours finds every mutant above its detectable change and flags no more healthy nights
             than promised; 1 it does not; 2 bad input; 3 a training process broke; 130 interrupted
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evenkeel mutate``."""
    parser.epilog = EPILOG
    recipes = parser.add_mutually_exclusive_group()
    recipes.add_argument("--suite", metavar="NAME", help="train the recipes of a listing")
    recipes.add_argument("--recipes", nargs="+", type=Path, metavar="YAML", help="train these")
    parser.add_argument("--mutants", metavar="A,B", default="", help="only these mutants")
    parser.add_argument(
        "--healthy", type=int, default=100, metavar="N", help="healthy runs in all (default 100)"
    )
    parser.add_argument(
        "--baseline-runs", type=int, default=5, metavar="K", help="runs of a baseline (default 5)"
    )
    parser.add_argument(
        "--nights", type=int, default=1000, metavar="N", help="nights to resample (default 1000)"
    )
    parser.add_argument("--family-error", type=float, default=0.01, metavar="P")
    parser.add_argument(
        "--resume",
        type=Path,
        default=Path("mutation_results"),
        metavar="DIR",
        help="folder of results: what is in it is not trained again (default mutation_results)",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="trainings at a time")
    parser.add_argument("--judge-only", action="store_true", help="train nothing")
    parser.add_argument("--root", type=Path, help="the repository (default: around this folder)")
    parser.add_argument("--list", action="store_true", help="show the mutants and end")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Train what is missing, judge, show."""
    from evenkeel.launch import mutation_plan

    root = (args.root or Repository.around(Path.cwd()).root).resolve()
    mutants = mutation_plan.selected(
        mutation_plan.registry(root), filter(None, args.mutants.split(","))
    )
    if args.list:
        _print_list(mutants, args.json)
        return EXIT_OK
    if args.baseline_runs < 2 or args.healthy < 1 or args.workers < 1:
        raise InputError("needs --baseline-runs 2 or more, --healthy and --workers 1 or more")
    if args.suite:
        recipes = mutation_plan.of_suite(root, args.suite)
    else:
        paths = args.recipes or mutation_plan.own_recipes(root)
        recipes = mutation_plan.of_files(root, paths)
    if not args.judge_only:
        _train(args, root, recipes, mutants)
    found = _score(args, recipes, mutants, args.nights)
    _show(found, args.json)
    kept = found.nights.ours <= max(1, round(args.family_error * found.nights.num))
    complete = found.found("ours", detectable=True) == len(found.detectable)
    return EXIT_OK if kept and complete and found.mutants else EXIT_FINDING


def _train(
    args: argparse.Namespace,
    root: Path,
    recipes: Sequence[MutationRecipe],
    mutants: Sequence[Mutant],
) -> None:
    """Healthy runs, mutants, then further runs of the mutants that are not found by one."""
    from evenkeel.launch import mutation_plan, mutation_runs
    from evenkeel.launch.mutation_plan import FIRST_MUTANT_SEED, PlannedRun

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    homes = {one.name: mutation_plan.recipe_of(one, recipes) for one in mutants}
    for name, home in homes.items():
        if home is None:
            say(f"{name}: none of these recipes has what it needs")
    used = [one for one in recipes if one in homes.values()]
    runs = mutation_plan.healthy_runs(used, args.baseline_runs, args.healthy)
    placed = {name: home for name, home in homes.items() if home is not None}
    for look in range(3):
        if look:  # of those not found: to confirm, and to know how large the effect is
            found = {one.mutant for one in _score(args, recipes, mutants, 0).mutants if one.found}
            placed = {name: home for name, home in placed.items() if name not in found}
        seed = FIRST_MUTANT_SEED + look
        runs += [PlannedRun(home, name, seed) for name, home in placed.items()]
        mutation_runs.train(runs, args.resume, root, args.workers, say)


def _score(
    args: argparse.Namespace,
    recipes: Sequence[MutationRecipe],
    mutants: Sequence[Mutant],
    nights: int,
) -> Score:
    from evenkeel.convergence import mutation_score

    runs = collected(args.resume, recipes, args.baseline_runs, {one.name for one in mutants})
    return mutation_score.score(runs, family_error=args.family_error, num_nights=nights)


def collected(
    results: Path, recipes: Sequence[MutationRecipe], num_baseline: int, names: set[str]
) -> list[RecipeRuns]:
    """What is kept in a folder of results, by recipe; recipes without any run are left out."""
    from evenkeel.convergence.mutation_score import RecipeRuns, TrainedRun
    from evenkeel.launch import mutation_runs
    from evenkeel.launch.mutation_plan import HEALTHY

    by_recipe: dict[str, dict[str, list[TrainedRun]]] = defaultdict(lambda: defaultdict(list))
    for record, metrics in mutation_runs.read_all(results):
        one = TrainedRun(record["mutant"], record["seed"], record["status"], metrics)
        by_recipe[record["recipe"]][record["mutant"]].append(one)
    found = []
    for recipe in recipes:
        runs = by_recipe.get(recipe.name, {})
        healthy = sorted(runs.get(HEALTHY, []), key=lambda one: one.seed)
        broken = [one.seed for one in healthy if one.status]
        if broken:
            raise InputError(
                f"healthy runs of {recipe.name} ended badly: seeds {broken}",
                path=results,
                fix="look into their run.log, mend the recipe, and remove their folders",
            )
        if runs:
            found.append(
                RecipeRuns(
                    name=recipe.name,
                    checks=recipe.checks,
                    baseline=[one for one in healthy if one.seed <= num_baseline],
                    healthy=[one for one in healthy if one.seed > num_baseline],
                    mutants={
                        name: sorted(kept, key=lambda one: one.seed)
                        for name, kept in runs.items()
                        if name in names
                    },
                )
            )
    return found


def _show(found: Score, as_json: bool) -> None:
    from evenkeel.report import mutation_text

    print(json.dumps(mutation_text.as_json(found)) if as_json else mutation_text.table(found))
    sys.stdout.flush()


def _print_list(mutants: Sequence[Mutant], as_json: bool) -> None:
    if as_json:
        listed: list[dict[str, Any]] = [
            {**vars(one), "needs": sorted(one.needs)} for one in mutants
        ]
        print(json.dumps(listed))
        return
    for one in mutants:
        print(f"{one.name}\n    {one.breaks}\n    seen: {one.seen}")
