"""A new recipe from its name: the YAML, the driver and the entry in a listing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes import config_block, suite, vocabulary
from evenkeel.recipes import name as names
from evenkeel.recipes.config import load_untyped
from evenkeel.recipes.explanation import explain, model_parallel_size
from evenkeel.recipes.name import RecipeName
from evenkeel.recipes.tree_change import Change, Write
from evenkeel.run_paths import Repository

_CONFIGS = Path("examples/configs")
_PARALLEL = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "cp": "context_parallel_size",
    "ep": "expert_parallel_size",
    "etp": "expert_tensor_parallel_size",
    "vpp": "virtual_pipeline_parallel_size",
}
_SWITCHES = {
    "actckpt": ("policy.activation_checkpointing", True),
    "ac": ("policy.activation_checkpointing", True),
    "seqpack": ("policy.sequence_packing.enabled", True),
    "pack": ("policy.sequence_packing.enabled", True),
    "sp": ("policy.sequence_packing.enabled", True),
    "fp8": ("policy.precision", "fp8"),
}
_LORA_RANK = 16
_ON_POLICY = frozenset({"grpo", "gspo", "dapo", "rloo"})
_MINUTES = 60
# it learned: the last ten steps are better than the first ten
_LOWER = 'mean(data["{0}"], -10, 0) < mean(data["{0}"], 1, 11)'
_HIGHER = 'mean(data["{0}"], -10, 0) > mean(data["{0}"], 1, 11)'
_CHECKS = {
    "dpo": _LOWER.format("train/preference_loss"),
    "grpo": _HIGHER.format("train/reward"),
}
_CHECK = _LOWER.format("train/loss")
_DRIVER = """\
#!/usr/bin/env bash
source "$(dirname "${{BASH_SOURCE[0]}}")/../common.env"

{begin}
NUM_NODES={nodes}
GPUS_PER_NODE={gpus}
STEPS_PER_RUN={steps}
MAX_STEPS={steps}
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES={minutes}
{end}

exit_if_max_steps_reached

train examples/run_{script}.py "$@"

judge \\
    '{check}'
"""


def new(repository: Repository, text: str, like: str | None, suite_name: str) -> Change:
    """What makes the recipe called ``text``.

    Args:
        repository: the tree.
        text: the name.
        like: a recipe to inherit from, whose driver is copied; None: the base of the algorithm
            and the file of the model.
        suite_name: the listing that gets the entry.

    Raises:
        InputError: the name is illegal or taken, or base, model file or listing are missing.
    """
    words = vocabulary.load(repository.root)
    name = names.parse(text, grammar=words.grammar)
    if name.needs_declaration:
        raise InputError(
            f"{text!r} states no allocation",
            fix="a new recipe says <nodes>n<gpus>g; its context length can be a modifier",
        )
    listing = suite.find(repository.root, suite_name)
    if listing.is_disabled:
        raise InputError(f"{suite_name} is for parked recipes", fix="name another suite")
    recipe, driver = repository.recipe(name.kind, text), repository.driver(name.kind, text)
    parents = _parents(repository, name, recipe.parent, like)
    yaml = _recipe_text(name, parents, recipe.parent, listing, dict(explain(name, words)))
    relative = driver.relative_to(repository.root).as_posix()
    entries = suite.with_entry(listing.path.read_text(encoding="utf-8"), relative)
    source = None if like is None else _driver_of(repository, like)
    steps = _steps(parents, recipe.parent, name)
    body = _driver_text(name, listing, steps) if source is None else _adapted(source, name)
    change = Change(
        writes=(
            Write(recipe, yaml, is_new=True),
            Write(driver, body, is_new=True, executable=True),
            Write(listing.path, entries),
        )
    )
    change.check()
    return change


def _parents(repository: Repository, name: RecipeName, folder: Path, like: str | None) -> list[str]:
    """What ``defaults`` names, relative to ``folder``."""
    configs = repository.root / _CONFIGS
    model = _model_file(configs / "models", name.model)
    if like is not None:
        source = repository.find_recipe(_bare(like))
        found = [source]
        if model is not None and _model_file(configs / "models", _model_of(source)) != model:
            found.append(model)
        return [os.path.relpath(path, folder) for path in found]
    base = configs / f"{name.algo}.yaml"
    if not base.is_file():
        known = [path.stem for path in configs.glob("*.yaml")]
        raise InputError(
            f"no base configuration of {name.algo!r}{did_you_mean(name.algo, known)}",
            path=base,
            fix="write it, or name a recipe to start from with --from",
        )
    if model is None:
        known = [path.stem for path in (configs / "models").glob("*.yaml")]
        raise InputError(
            f"no file of the model {name.model!r}{did_you_mean(name.model, known)}",
            path=configs / "models",
            fix=f"write models/{name.model}.yaml, or name a recipe to start from with --from",
        )
    data = _usual_data(repository, name)
    found = [base, model, *([data] if data else [])]
    return [os.path.relpath(path, folder) for path in found]


def _bare(like: str) -> str:
    return like.rpartition("/")[2].removesuffix(".yaml").removesuffix(".sh")


def _model_of(recipe: Path) -> str:
    try:
        return names.parse(recipe.stem, declared=True).model
    except InputError:
        return ""


def _model_file(folder: Path, model: str) -> Path | None:
    """The file of the longest beginning of ``model`` that has one."""
    words = model.split("-")
    for end in range(len(words), 0, -1):
        path = folder / f"{'-'.join(words[:end])}.yaml"
        if path.is_file():
            return path
    return None


def _usual_data(repository: Repository, name: RecipeName) -> Path | None:
    """The data file of most recipes of this algorithm and model, else of this algorithm.

    None where most use none, as a model does that is trained on a generated set. A tie goes to
    the first name.
    """
    folder = repository.root / _CONFIGS / "data"
    files = [path.name for path in folder.glob("*.yaml")]
    prefix = "vlm_" * name.vlm + name.algo + "-"
    recipes = sorted((repository.recipes_dir / name.kind).glob(f"{prefix}*.yaml"))
    same_model = [recipe for recipe in recipes if _model_of(recipe) == name.model]
    counts: dict[str, int] = {}
    for recipe in same_model or recipes:
        text = recipe.read_text(encoding="utf-8", errors="replace")
        used = next((file for file in files if f"data/{file}" in text), "")
        counts[used] = counts.get(used, 0) + 1
    usual = min(counts, key=lambda file: (-counts[file], file), default="")
    return folder / usual if usual else None


def _inherited(parents: list[str], folder: Path) -> Mapping[str, Any]:
    """What the new recipe has before it says anything itself."""
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch) / "probe.yaml"
        rows = "".join(f'  - "{(folder / parent).resolve()}"\n' for parent in parents)
        probe.write_text(f"defaults:\n{rows}", encoding="utf-8")
        return load_untyped(probe).values


def _value(values: Mapping[str, Any], dotted: str) -> Any:
    node: Any = values
    for key in dotted.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _recipe_text(
    name: RecipeName,
    parents: list[str],
    folder: Path,
    listing: suite.Listing,
    said: Mapping[str, str],
) -> str:
    inherited = _inherited(parents, folder)
    wanted = _stated(name, inherited)
    if listing.declared.device and _value(inherited, "cluster.device") is not None:
        wanted["cluster.device"] = listing.declared.device
    own: dict[str, Any] = {}
    for dotted, value in wanted.items():
        if _value(inherited, dotted) != value:
            *above, key = dotted.split(".")
            section = own
            for word in above:
                section = section.setdefault(word, {})
            section[key] = value
    head = f"# {said['trains']}: {said['by'].partition(':')[0]}.\n"
    if len(parents) == 1:
        head += f"defaults: {parents[0]}\n"
    else:
        head += "defaults:\n" + "".join(f"  - {parent}\n" for parent in parents)
    blocks = ["\n" + _yaml({key: value}, 0) for key, value in own.items()]
    return head + "".join(blocks)


def _stated(name: RecipeName, inherited: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key → value, of everything that the name says and our schema has a key for."""
    strategy = name.strategy
    allocation = {
        "cluster.num_nodes": name.num_nodes,
        "cluster.gpus_per_node": name.gpus_per_node,
    }
    if _value(inherited, "policy.parallel") is None:
        return allocation  # another schema: what its other keys are called is not known here
    wanted: dict[str, Any] = {}
    if strategy.backend is not None:
        wanted["policy.backend"] = "megatron" if strategy.backend == "megatron" else "fsdp2"
    for short, key in _PARALLEL.items():
        if (size := strategy.sizes.get(short)) is not None:
            wanted[f"policy.parallel.{key}"] = size
    if strategy.sp:
        wanted["policy.parallel.sequence_parallel"] = True
    for modifier in name.modifiers:
        if modifier in _SWITCHES:
            key, value = _SWITCHES[modifier]
            wanted[key] = value
        if modifier == "lora" and _value(inherited, "policy.lora") is None:
            wanted["policy.lora.rank"] = _LORA_RANK
    if name.vlm and _value(inherited, "policy.vision") is None:
        wanted["policy.vision"] = {}
    wanted.update(_batch(name, inherited))
    return {**wanted, **allocation}


def _batch(name: RecipeName, inherited: Mapping[str, Any]) -> dict[str, int]:
    """A global batch that the ranks of the allocation can share evenly."""
    batch = _value(inherited, "policy.train_global_batch_size")
    micro = _value(inherited, "policy.train_micro_batch_size")
    if not isinstance(batch, int) or not isinstance(micro, int):
        return {}
    if name.algo in _ON_POLICY:
        prompts = _value(inherited, f"{name.algo}.num_prompts_per_step")
        samples = _value(inherited, f"{name.algo}.num_generations_per_prompt")
        if isinstance(prompts, int) and isinstance(samples, int):
            batch = prompts * samples
    world = (name.num_nodes or 1) * (name.gpus_per_node or 1)
    share = max(1, world // model_parallel_size(name)) * micro
    return {"policy.train_global_batch_size": -(-batch // share) * share}


def _yaml(section: Mapping[str, Any], depth: int) -> str:
    text = ""
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            text += f"{'  ' * depth}{key}:\n{_yaml(value, depth + 1)}"
        else:
            shown = "{}" if isinstance(value, Mapping) else str(value)
            shown = shown.lower() if isinstance(value, bool) else shown
            text += f"{'  ' * depth}{key}: {shown}\n"
    return text


def _steps(parents: list[str], folder: Path, name: RecipeName) -> int:
    steps = _value(_inherited(parents, folder), f"{name.algo}.max_num_steps")
    return steps if isinstance(steps, int) else 100


def _driver_text(name: RecipeName, listing: suite.Listing, steps: int) -> str:
    return _DRIVER.format(
        begin=config_block.BEGIN_LINE,
        end=config_block.END_LINE,
        nodes=name.num_nodes,
        gpus=name.gpus_per_node,
        steps=steps,
        minutes=min(_MINUTES, listing.declared.max_minutes or _MINUTES),
        script="vlm_" * name.vlm + name.algo,
        check=_CHECKS.get(name.algo, _CHECK),
    )


def _driver_of(repository: Repository, like: str) -> str:
    recipe = repository.find_recipe(_bare(like)).relative_to(repository.recipes_dir)
    return config_block.read_text(repository.suites_dir / recipe.parent / f"{_bare(like)}.sh")


def _adapted(text: str, name: RecipeName) -> str:
    """Another recipe's driver with the allocation of ``name``; all else stays."""
    raw = config_block.scan(text)
    lines = text.splitlines(keepends=True)
    nodes, gpus = raw.last("NUM_NODES"), raw.last("GPUS_PER_NODE")
    if nodes is None:
        raise InputError("the driver to start from has no NUM_NODES")
    for found, number in ((gpus, name.gpus_per_node), (nodes, name.num_nodes)):
        if found is not None and str(found.value) != str(number):
            line = lines[found.line - 1]
            end = found.column - 1 + len(found.raw)
            lines[found.line - 1] = f"{line[: found.column - 1]}{number}{line[end:]}"
    if gpus is None and name.gpus_per_node != config_block.DEFAULT_GPUS_PER_NODE:
        lines.insert(nodes.line, f"GPUS_PER_NODE={name.gpus_per_node}\n")
    return "".join(lines)
