"""What is trained to learn how many planted bugs a suite finds: recipes, their features, runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes import config, config_block, driver_checks, suite
from evenkeel.recipes.schema import Recipe
from evenkeel.run_paths import Repository

HEALTHY = "healthy"
MUTATION_DIR = Path("tests/mutation")
THRESHOLDS = "thresholds.yaml"
FIRST_HEALTHY_SEED = 101
FIRST_CONFIRMING_SEED = 201
NUM_CONFIRMING = 2
OWN_SEED = 1
"""Of the baseline; what a nightly run of the recipe would use."""
EFFECT_SEED = 2
"""Of the baseline, too: it tells how large an effect is that is judged with the own seed."""
NUM_TWINS = 2


@dataclass(frozen=True)
class Mutant:
    """A planted bug, as its registry describes it."""

    name: str
    breaks: str
    seen: str
    needs: frozenset[str]


@dataclass(frozen=True)
class HarmlessChange:
    """A change that alters rounding alone, as the registry describes it.

    Args:
        name: of its runs.
        changes: in words.
        unless: features of recipes in which it would be more than that.
        overrides: of the recipe.
    """

    name: str
    changes: str
    unless: frozenset[str]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Registry:
    """Everything that can be planted."""

    mutants: tuple[Mutant, ...]
    harmless: tuple[HarmlessChange, ...]


@dataclass(frozen=True)
class MutationRecipe:
    """A recipe on which mutants are trained.

    Args:
        name: of its file.
        path: of its YAML.
        script: the trainer.
        overrides: that its driver gives.
        num_ranks: processes.
        num_starts: of the trainer, until all steps are done.
        features: of ``features``.
        checks: the hand-typed thresholds that it is judged by today.
    """

    name: str
    path: Path
    script: Path
    overrides: tuple[str, ...]
    num_ranks: int
    num_starts: int
    features: frozenset[str]
    checks: tuple[str, ...]


@dataclass(frozen=True)
class PlannedRun:
    """One training.

    Args:
        recipe: what is trained.
        mutant: its name, that of a harmless change or a numeric twin, or ``healthy``.
        seed: of the recipe.
        plants: whether the trainers are patched with what ``mutant`` names.
    """

    recipe: MutationRecipe
    mutant: str
    seed: int
    plants: bool = True

    def folder(self, results: Path) -> Path:
        """Where it is kept."""
        return results / self.recipe.name / self.mutant / f"seed{self.seed}"


def registry(root: Path) -> Registry:
    """The mutants and harmless changes of a repository.

    Raises:
        InputError: there is no registry.
    """
    script = root / MUTATION_DIR / "run_mutant.py"
    if not script.is_file():
        raise InputError("no registry of mutants", path=script, fix="pass --root REPOSITORY")
    done = subprocess.run(
        [sys.executable, str(script), "--list"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(
            f"the registry of mutants fails: {done.stderr.strip()[-300:]}", path=script
        )
    read = json.loads(done.stdout)
    return Registry(
        tuple(
            Mutant(one["name"], one["breaks"], one["seen"], frozenset(one["needs"]))
            for one in read["mutants"]
        ),
        tuple(
            HarmlessChange(
                one["name"], one["changes"], frozenset(one["unless"]), tuple(one["overrides"])
            )
            for one in read["harmless"]
        ),
    )


def selected(mutants: Sequence[Mutant], names: Iterable[str]) -> list[Mutant]:
    """Those called ``names``; all where there are none.

    Raises:
        InputError: there is no such mutant.
    """
    wanted = list(names)
    by_name = {one.name: one for one in mutants}
    for name in wanted:
        if name not in by_name:
            raise InputError(
                f"no mutant {name!r}{did_you_mean(name, by_name)}",
                fix="'evenkeel mutate --list' shows all",
            )
    return [by_name[name] for name in wanted] if wanted else list(mutants)


def of_files(root: Path, paths: Sequence[Path]) -> list[MutationRecipe]:
    """Recipes by path, with the thresholds of ``thresholds.yaml`` beside them, if any."""
    return [_recipe(root, path, (), _thresholds(path)) for path in paths]


def own_recipes(root: Path) -> list[Path]:
    """The small recipes that lie beside the mutants: those with thresholds."""
    folder = root / MUTATION_DIR / "recipes"
    return [folder / f"{name}.yaml" for name in _read_thresholds(folder / THRESHOLDS)]


def of_suite(root: Path, name: str) -> list[MutationRecipe]:
    """The recipes of a listing, with the steps and checks of their drivers.

    Raises:
        InputError: the listing, or one of its drivers or recipes, is missing or broken.
    """
    repository = Repository(root)
    found = []
    for entry in suite.find(root, name).entries:
        relative = suite.resolve(entry, repository)
        if relative is None:
            raise InputError(f"no driver {entry.text}", fix="correct the listing")
        driver = root / relative
        block = config_block.read(driver)
        path = repository.recipe(driver.parent.name, driver.stem)
        loop = config.load(path).recipe.algorithm.value
        overrides = (
            f"{loop}.max_num_steps={block.max_steps}",
            f"{loop}.steps_per_run={block.steps_per_run}",
        )
        found.append(_recipe(root, path, overrides, tuple(driver_checks.read(driver))))
    return found


def _recipe(
    root: Path, path: Path, overrides: tuple[str, ...], checks: tuple[str, ...]
) -> MutationRecipe:
    recipe = config.load(path, overrides).recipe
    steps_per_run = recipe.loop.steps_per_run or recipe.loop.max_num_steps
    return MutationRecipe(
        name=path.stem,
        path=path.resolve(),
        script=(root / "examples" / f"run_{recipe.algorithm.value}.py").resolve(),
        overrides=overrides,
        num_ranks=recipe.cluster.num_nodes * recipe.cluster.gpus_per_node,
        num_starts=-(-recipe.loop.max_num_steps // steps_per_run),
        features=features(recipe),
        checks=checks,
    )


def features(recipe: Recipe) -> frozenset[str]:
    """What a recipe has for a bug to show in: the words that mutants need."""
    policy = recipe.policy
    ranks = recipe.cluster.num_nodes * recipe.cluster.gpus_per_node
    tensor = policy.parallel.tensor_parallel_size
    model = policy.model_config
    text = {**model, **model.get("text_config", {})}
    steps_per_run = recipe.loop.steps_per_run
    rows = policy.train_micro_batch_size * (ranks // tensor)
    packs = policy.sequence_packing.enabled
    holds = {
        "vision" if policy.vision is not None else recipe.algorithm.value: True,
        "micro_batches": policy.train_global_batch_size > rows and not packs,
        "weight_decay": policy.optimizer.weight_decay > 0,
        "warmup": policy.scheduler.warmup_steps > 0,
        "tied": bool(text.get("tie_word_embeddings")),
        "bias": bool(text.get("attention_bias")),
        "dropout": bool(text.get("attention_dropout")),
        "packing": packs,
        "dp": ranks > tensor,
        "tp": tensor > 1,
        "resume": steps_per_run is not None and steps_per_run < recipe.loop.max_num_steps,
        **_of_reinforcement(recipe),
    }
    return frozenset(word for word, held in holds.items() if held)


def _of_reinforcement(recipe: Recipe) -> dict[str, bool]:
    settings, policy = recipe.grpo, recipe.policy
    if settings is None or recipe.algorithm.value != "grpo":
        return {}
    answers = settings.num_prompts_per_step * settings.num_generations_per_prompt
    temperature = policy.generation.temperature if policy.generation else 1.0
    return {
        "kl": settings.reference_policy_kl_penalty > 0,
        "updates": answers * settings.num_inner_epochs > policy.train_global_batch_size,
        "temperature": temperature != 1.0,
    }


def recipe_of(mutant: Mutant, recipes: Sequence[MutationRecipe]) -> MutationRecipe | None:
    """The first recipe in which the bug can show."""
    return next((one for one in recipes if mutant.needs <= one.features), None)


def healthy_runs(
    recipes: Sequence[MutationRecipe], num_baseline: int, num_healthy: int
) -> list[PlannedRun]:
    """Baseline runs, then ``num_healthy`` with fresh seeds, over all recipes together."""
    share = -(-num_healthy // len(recipes)) if recipes else 0
    seeds = [*range(1, num_baseline + 1)]
    seeds += range(FIRST_HEALTHY_SEED, FIRST_HEALTHY_SEED + share)
    return [PlannedRun(recipe, HEALTHY, seed, False) for seed in seeds for recipe in recipes]


def twin_name(number: int) -> str:
    """What the runs of a numeric twin are called."""
    return f"twin{number}"


def twin_runs(root: Path, recipes: Sequence[MutationRecipe]) -> list[PlannedRun]:
    """Numeric twins of the recipes' own seed."""
    return [
        PlannedRun(
            _varied(root, recipe, (f"policy.numeric_twin={number}",)),
            twin_name(number),
            OWN_SEED,
            False,
        )
        for number in range(1, NUM_TWINS + 1)
        for recipe in recipes
    ]


def harmless_runs(
    root: Path, recipes: Sequence[MutationRecipe], changes: Sequence[HarmlessChange]
) -> list[PlannedRun]:
    """Every harmless change of every recipe in which it is one, with the recipe's own seed."""
    return [
        PlannedRun(_varied(root, recipe, change.overrides), change.name, OWN_SEED)
        for change in changes
        for recipe in recipes
        if not change.unless & recipe.features
    ]


def mutant_runs(placed: Mapping[str, MutationRecipe]) -> list[PlannedRun]:
    """Each mutant, by name, on its recipe: the run to judge and the one that tells its effect."""
    return [
        PlannedRun(recipe, name, seed)
        for seed in (OWN_SEED, EFFECT_SEED)
        for name, recipe in placed.items()
    ]


def confirming_runs(placed: Mapping[str, MutationRecipe], look: int) -> list[PlannedRun]:
    """A run with a fresh seed for each of these mutants; ``look`` counts from 0."""
    return [
        PlannedRun(recipe, name, FIRST_CONFIRMING_SEED + look) for name, recipe in placed.items()
    ]


def _varied(root: Path, recipe: MutationRecipe, overrides: tuple[str, ...]) -> MutationRecipe:
    return _recipe(root, recipe.path, (*recipe.overrides, *overrides), recipe.checks)


def job(run: PlannedRun, results: Path) -> Mapping[str, Any]:
    """What ``train_jobs.py`` is told."""
    folder = run.folder(results).resolve()
    return {
        "folder": str(folder),
        "mutant": run.mutant if run.plants else HEALTHY,
        "script": str(run.recipe.script),
        "arguments": [
            "--config",
            str(run.recipe.path),
            *run.recipe.overrides,
            f"seed={run.seed}",
            f"logger.log_dir={json.dumps(str(folder / 'logs'))}",
            f"checkpointing.checkpoint_dir={json.dumps(str(folder / 'ckpts'))}",
        ],
        "num_ranks": run.recipe.num_ranks,
        "num_starts": run.recipe.num_starts,
    }


def _thresholds(path: Path) -> tuple[str, ...]:
    return tuple(_read_thresholds(path.with_name(THRESHOLDS)).get(path.stem, ()))


def _read_thresholds(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        return {}
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(read, dict) or not all(isinstance(one, list) for one in read.values()):
        raise InputError("not a mapping of recipe names to lists of checks", path=path)
    return read
