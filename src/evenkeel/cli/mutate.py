"""``evenkeel mutate``: plant bugs into the trainers, and count who finds them."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError
from evenkeel.run_paths import Repository

if TYPE_CHECKING:
    from evenkeel.convergence.mutation_judge import RecipeRuns
    from evenkeel.convergence.mutation_score import Score
    from evenkeel.launch.mutation_plan import Mutant, MutationRecipe, Registry

EPILOG = """\
examples:
  evenkeel mutate --list                               # all mutants
  evenkeel mutate --list --suite nightly_cpu           # those that can show in its recipes
  evenkeel mutate --resume results                     # the small recipes of tests/mutation
  evenkeel mutate --resume results --judge-only        # judge again what is trained
  evenkeel mutate --suite nightly_cpu --healthy 20
  evenkeel mutate --mutants learning-rate-x2,labels-shifted-twice --healthy 10

Trains baseline runs and numeric twins, healthy runs with fresh seeds, harmless changes of the code,
and each mutant on the first recipe in which its bug can show; then judges all of them. Every run
that is done is kept in the folder of results, so an interrupted call goes on where it stopped: give
the same --resume.

exit status: 0 ours finds every mutant above its detectable change, flags no harmless change and no
             more healthy nights than promised; 1 it does not; 2 bad input; 3 a training process
             broke; 130 interrupted
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
    parser.add_argument(
        "--list",
        action="store_true",
        help="show the mutants, of --suite or --recipes where given, and end",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Train what is missing, judge, show."""
    from evenkeel.launch import mutation_plan

    root = (args.root or Repository.around(Path.cwd()).root).resolve()
    registry = mutation_plan.registry(root)
    asked = [name.strip() for name in args.mutants.split(",") if name.strip()]
    registry = replace(registry, mutants=tuple(mutation_plan.selected(registry.mutants, asked)))
    if args.list:
        _print_list(_listed(args, root, registry.mutants), args.json)
        return EXIT_OK
    if args.baseline_runs < 2 or args.healthy < 1 or args.workers < 1:
        raise InputError("needs --baseline-runs 2 or more, --healthy and --workers 1 or more")
    recipes = _recipes(args, root)
    if not args.judge_only:
        _train(args, root, recipes, registry)
    found = _score(args, recipes, registry, args.nights)
    _show(found, args.json)
    kept = found.nights.ours <= max(1, round(args.family_error * found.nights.num))
    kept = kept and not found.changes.ours
    complete = found.found("ours", detectable=True) == len(found.detectable)
    return EXIT_OK if kept and complete and found.mutants else EXIT_FINDING


def _recipes(args: argparse.Namespace, root: Path) -> list[MutationRecipe]:
    """Those of ``--suite`` or ``--recipes``, else the small ones beside the mutants."""
    from evenkeel.launch import mutation_plan

    if args.suite:
        return mutation_plan.of_suite(root, args.suite)
    return mutation_plan.of_files(root, args.recipes or mutation_plan.own_recipes(root))


def _listed(args: argparse.Namespace, root: Path, mutants: Sequence[Mutant]) -> Sequence[Mutant]:
    """All, or those whose bug can show in a recipe that is asked for."""
    from evenkeel.launch import mutation_plan

    if not args.suite and not args.recipes:
        return mutants
    recipes = _recipes(args, root)
    found = [one for one in mutants if mutation_plan.recipe_of(one, recipes)]
    print(f"{len(found)} of {len(mutants)} mutants can show in these recipes", file=sys.stderr)
    return found


def _train(
    args: argparse.Namespace,
    root: Path,
    recipes: Sequence[MutationRecipe],
    registry: Registry,
) -> None:
    """Everything but confirming runs, then those of the mutants that ask for them."""
    from evenkeel.convergence.verdict import Verdict
    from evenkeel.launch import mutation_plan, mutation_runs

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    mutants = registry.mutants
    homes = {one.name: mutation_plan.recipe_of(one, recipes) for one in mutants}
    for name, home in homes.items():
        if home is None:
            say(f"{name}: none of these recipes has what it needs")
    used = [one for one in recipes if one in homes.values()]
    placed = {name: home for name, home in homes.items() if home is not None}
    runs = mutation_plan.healthy_runs(used, args.baseline_runs, args.healthy)
    runs += mutation_plan.twin_runs(root, used)
    runs += mutation_plan.harmless_runs(root, used, registry.harmless)
    runs += mutation_plan.mutant_runs(placed)
    mutation_runs.train(runs, args.resume, root, args.workers, say)
    for look in range(mutation_plan.NUM_CONFIRMING):
        judged = _score(args, recipes, registry, 0).mutants
        open_still = {one.mutant for one in judged if one.by_statistics is Verdict.INCONCLUSIVE}
        placed = {name: home for name, home in placed.items() if name in open_still}
        runs = mutation_plan.confirming_runs(placed, look)
        mutation_runs.train(runs, args.resume, root, args.workers, say)


def _score(
    args: argparse.Namespace,
    recipes: Sequence[MutationRecipe],
    registry: Registry,
    nights: int,
) -> Score:
    from evenkeel.convergence import mutation_score

    runs = collected(args.resume, recipes, args.baseline_runs, registry)
    if not runs:
        raise InputError(
            "no run of these recipes is kept here",
            path=args.resume,
            fix="name the folder of results with --resume, or train without --judge-only",
        )
    return mutation_score.score(runs, family_error=args.family_error, num_nights=nights)


def collected(
    results: Path, recipes: Sequence[MutationRecipe], num_baseline: int, registry: Registry
) -> list[RecipeRuns]:
    """What is kept in a folder of results, by recipe; recipes without any run are left out."""
    from evenkeel.convergence.mutation_judge import RecipeRuns, TrainedRun
    from evenkeel.launch import mutation_plan, mutation_runs
    from evenkeel.launch.mutation_plan import HEALTHY

    by_recipe: dict[str, dict[str, list[TrainedRun]]] = defaultdict(lambda: defaultdict(list))
    for record, metrics in mutation_runs.read_all(results):
        one = TrainedRun(record["mutant"], record["seed"], record["status"], metrics)
        by_recipe[record["recipe"]][record["mutant"]].append(one)
    names = {one.name for one in registry.mutants}
    harmless = [one.name for one in registry.harmless]
    twins = [mutation_plan.twin_name(number) for number in range(1, mutation_plan.NUM_TWINS + 1)]
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
                    twins=[one for name in twins for one in runs.get(name, [])],
                    harmless={name: runs[name][0] for name in harmless if name in runs},
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
