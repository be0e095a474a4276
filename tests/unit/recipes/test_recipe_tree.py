"""The repository's own recipes: each resolves, adds up, says only what differs, has a driver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from evenkeel.cli.main import main
from evenkeel.recipes.config import load
from evenkeel.recipes.inheritance import merge, parents_of, read_with_defaults
from evenkeel.recipes.located_yaml import Tree, read_tree
from evenkeel.run_paths import Repository

REPOSITORY = Repository(Path(__file__).parents[3])
EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
RECIPES = sorted(REPOSITORY.recipes_dir.rglob("*.yaml"))
BASES = sorted((REPOSITORY.root / "examples" / "configs").glob("*/*.yaml"))


def name_of(path: Path) -> str:
    return path.stem


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, node in tree.items():
        if isinstance(node.value, dict) and node.value:
            yield from leaves(node.value, f"{prefix}{key}.")
        else:
            yield prefix + key, node.value


def test_the_collection_is_broad() -> None:
    resolved = [load(path) for path in RECIPES]
    assert {recipe.recipe.algorithm.value for recipe in resolved} == {
        "pretrain", "sft", "dpo", "grpo", "distillation"
    }  # fmt: skip
    assert {recipe.recipe.cluster.num_nodes for recipe in resolved} >= {1, 2, 4, 8, 16, 32}
    assert {recipe.recipe.cluster.gpus_per_node for recipe in resolved} >= {4, 8}
    assert len({recipe.fingerprint for recipe in resolved}) > 40


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_resolves_and_adds_up(path: Path) -> None:
    recipe = load(path).recipe
    policy, cluster = recipe.policy, recipe.cluster
    assert path.stem.removeprefix("vlm_").startswith(f"{recipe.algorithm}-")
    assert (policy.vision is not None) == path.stem.startswith("vlm_")
    model = policy.model_config.get("text_config", policy.model_config)
    parallel = policy.parallel
    num_gpus = cluster.num_nodes * cluster.gpus_per_node
    if policy.generation and not policy.generation.colocated.enabled:
        set_aside = policy.generation.colocated.resources
        num_gpus -= (set_aside.num_nodes or 1) * (set_aside.gpus_per_node or 0)
    per_copy = (
        parallel.tensor_parallel_size
        * parallel.pipeline_parallel_size
        * parallel.context_parallel_size
    )
    assert num_gpus % per_copy == 0
    copies = num_gpus // per_copy
    assert policy.train_global_batch_size % (policy.train_micro_batch_size * copies) == 0
    assert model["num_attention_heads"] % parallel.tensor_parallel_size == 0
    assert model["num_key_value_heads"] % parallel.tensor_parallel_size == 0
    first = parallel.num_layers_in_first_pipeline_stage
    layers, stages = model["num_hidden_layers"], parallel.pipeline_parallel_size
    assert (layers % stages if first is None else (layers - first) % (stages - 1)) == 0
    experts = next((model[key] for key in EXPERTS if key in model), 1)
    assert experts % parallel.expert_parallel_size == 0
    assert (policy.moe is not None) == (experts > 1)
    if recipe.grpo is not None:
        samples = recipe.grpo.num_prompts_per_step * recipe.grpo.num_generations_per_prompt
        assert samples % policy.train_global_batch_size == 0


@pytest.mark.parametrize("path", [*RECIPES, *BASES], ids=name_of)
def test_a_file_says_only_what_differs(path: Path) -> None:
    own = read_tree(path, str(path))
    inherited: Tree = {}
    for parent, _ in parents_of(own, str(path)):
        inherited = merge(inherited, read_with_defaults(Path(parent)))
    known = dict(leaves(inherited))
    said = dict(leaves({key: node for key, node in own.items() if key != "defaults"}))
    assert said
    assert {key: value for key, value in said.items() if key in known and known[key] == value} == {}


def test_recipes_and_drivers_mirror_each_other() -> None:
    drivers = {path.relative_to(REPOSITORY.suites_dir) for path in suites_glob()}
    recipes = {
        path.relative_to(REPOSITORY.recipes_dir).with_name(f"{path.stem}.sh") for path in RECIPES
    }
    assert drivers == recipes


def suites_glob() -> list[Path]:
    return [*REPOSITORY.suites_dir.glob("llm/*.sh"), *REPOSITORY.suites_dir.glob("vlm/*.sh")]


def test_every_driver_stands_in_one_listing() -> None:
    listed = [
        line.split("#")[0].strip()
        for listing in REPOSITORY.suites_dir.glob("*.txt")
        for line in listing.read_text(encoding="utf-8").splitlines()
        if line.split("#")[0].strip()
    ]
    paths = [path.relative_to(REPOSITORY.root).as_posix() for path in suites_glob()]
    assert sorted(listed) == sorted(paths)


def test_the_linter_finds_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    main(["lint", "--root", str(REPOSITORY.root), "--format", "json"])
    report = json.loads(capsys.readouterr().out)
    assert report["checked"]["recipes"] == len(RECIPES)
    # EK107 is a disabled entry grown old: the calendar's business, not this commit's
    assert [finding for finding in report["findings"] if finding["code"] != "EK107"] == []
