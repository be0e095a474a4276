"""Recipes: readable, minimal, and with sizes that divide what they are spread over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evenkeel.errors import InputError
from evenkeel.recipes.config import RecipeError, resolve
from evenkeel.recipes.lint import facts as keys
from evenkeel.recipes.lint.facts import Layout, training_gpus
from evenkeel.recipes.lint.minimal import removable_lines, repeated
from evenkeel.recipes.lint.models import shape_of
from evenkeel.recipes.lint.recipe_file import RecipeFile
from evenkeel.recipes.lint.registry import Edit, EditKind, Finding, Subject, declare, looks_at
from evenkeel.recipes.lint.setup import Setup, is_ours, setup_of_recipe
from evenkeel.recipes.lint.tree import Tree
from evenkeel.recipes.lint.waivers import waivers_of

UNREADABLE = declare(
    "EK401",
    "recipe cannot be read",
    reason="A file that is not YAML, or says a key twice, trains nothing or something else.",
    fix="Mend the YAML.",
)
NO_BASE = declare(
    "EK402",
    "inherited file missing",
    reason="The recipe cannot be resolved.",
    fix="Correct the path in defaults, relative to the file.",
)
CYCLE = declare(
    "EK403",
    "inheritance goes in a circle",
    reason="The recipe cannot be resolved.",
    fix="Let one of the files inherit from none of the others.",
)
SCHEMA = declare(
    "EK404",
    "recipe does not fit the schema",
    reason="An unknown or mistyped key would be ignored, or stop the run at night.",
    fix="Correct the key or its value.",
)
REPEATED = declare(
    "EK405",
    "key repeats what it inherits",
    reason="A recipe says only what differs, so that a reader and a diff see just that.",
    fix="Remove the line.",
    fixable=True,
)
ALLOCATION = declare(
    "EK406",
    "parallel sizes do not divide the allocation",
    reason="The run cannot start: the GPUs cannot be arranged in that layout.",
    fix="Change the sizes or the allocation.",
)
MODEL = declare(
    "EK407",
    "parallel size does not divide the model",
    reason="Heads, layers and experts are split into equal parts.",
    fix="Choose a size that divides the count.",
)
BATCH = declare(
    "EK408",
    "global batch is not a multiple of micro-batch × data-parallel size",
    reason="The run stops at its first step, or trains with another batch than it says.",
    fix="Change the global batch, the micro-batch or the layout.",
)


@looks_at(Subject.RECIPE, UNREADABLE, NO_BASE, CYCLE, SCHEMA)
@looks_at(Subject.CONFIG, UNREADABLE, NO_BASE, CYCLE)
def recipe_resolves(tree: Tree, path: str) -> Iterator[Finding]:
    """The file and all that it inherits from can be read, and fit the schema where it is ours."""
    recipe = tree.recipe(path)
    if recipe.problem is not None:
        yield _problem(recipe.problem, path)
    elif path in tree.recipe_paths and is_ours(recipe):
        for problem in _schema_problems(recipe):
            yield Finding(
                SCHEMA.code,
                problem.path or path,
                problem.line or 1,
                problem.message,
                problem.fix or SCHEMA.fix,
            )


def _schema_problems(recipe: RecipeFile) -> Sequence[InputError]:
    try:
        resolve(recipe.merged, Path(recipe.path))
    except RecipeError as error:
        return error.problems
    except InputError as error:
        return [error]
    return []


def _problem(problem: InputError, path: str) -> Finding:
    if "cycle" in problem.message:
        rule = CYCLE
    elif problem.message.startswith("defaults:"):
        rule = NO_BASE
    else:
        rule = UNREADABLE
    return Finding(
        rule.code, problem.path or path, problem.line or 1, problem.message, problem.fix or rule.fix
    )


@looks_at(Subject.RECIPE, REPEATED)
def recipe_is_minimal(tree: Tree, path: str) -> Iterator[Finding]:
    """No key says what the recipe inherits anyway."""
    recipe = tree.recipe(path)
    if not recipe.usable or recipe.inherits_after or not recipe.inherited:
        return
    found = list(repeated(recipe.own, recipe.inherited, recipe.path))
    if not found:
        return
    text = tree.text_of(path)
    kept = {waiver.covers for waiver in waivers_of(text) if REPEATED.code in waiver.codes}
    if kept:
        found = list(repeated(recipe.own, recipe.inherited, recipe.path, kept))
    removable = removable_lines(text, [key for key, _, _ in found])
    for key, line, value in found:
        lines = removable.get(key)
        edit = None
        if lines is not None:
            edit = Edit(EditKind.DELETE, lines.first, lines.last, lines.text)
        yield Finding(
            REPEATED.code,
            path,
            line,
            f"{key}: {_shown(value)} repeats what it inherits",
            "remove it" if lines is not None else "remove it by hand",
            edit=edit,
        )


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@looks_at(Subject.RECIPE, ALLOCATION, MODEL, BATCH)
def sizes_divide(tree: Tree, path: str) -> Iterator[Finding]:
    """Parallel sizes divide allocation and model; the global batch divides by what shares it."""
    setup = setup_of_recipe(tree, path)
    if setup is None or setup.layout is None:
        return
    layout = setup.layout
    gpus = training_gpus(setup.facts)
    sizes = [layout.size(kind) for kind in ("tp", "pp", "cp")]
    if gpus is not None:
        product = 1
        for size in sizes:
            product *= size or 1
        if gpus % product:
            yield _not_divided(setup, layout, gpus, product)
        else:
            yield from _expert_groups(setup, layout, gpus)
            complete = layout.size("tp") is not None and layout.size("cp") is not None
            if complete:
                yield from _batch(setup, gpus // product)
    yield from _model(setup, layout)


def _not_divided(setup: Setup, layout: Layout, gpus: int, product: int) -> Finding:
    said = " × ".join(
        f"{kind}{layout.size(kind)}" for kind in ("tp", "pp", "cp") if (layout.size(kind) or 1) > 1
    )
    largest = max(
        (layout.sizes[kind] for kind in ("tp", "pp", "cp") if kind in layout.sizes),
        key=lambda fact: int(fact.value),
    )
    place, line = setup.line_of(largest)
    return Finding(
        ALLOCATION.code,
        place,
        line,
        f"{said} = {product} does not divide the {gpus} GPUs that train",
        ALLOCATION.fix,
    )


def _expert_groups(setup: Setup, layout: Layout, gpus: int) -> Iterator[Finding]:
    expert = layout.sizes.get("ep")
    if expert is None or expert.value == 1:
        return
    if (gpus // (layout.size("pp") or 1)) % (expert.value * (layout.size("etp") or 1)):
        place, line = setup.line_of(expert)
        yield Finding(
            ALLOCATION.code,
            place,
            line,
            f"ep{expert.value} does not divide the {gpus // (layout.size('pp') or 1)} GPUs of a "
            "pipeline stage",
            ALLOCATION.fix,
        )


def _batch(setup: Setup, data_parallel: int) -> Iterator[Finding]:
    batch = setup.facts.get(*keys.GLOBAL_BATCH)
    if batch is None or not batch.is_count:
        return
    micro = setup.facts.count(*keys.MICRO_BATCH)
    variable = [setup.facts.get(key) for key in keys.VARIABLE_MICRO_BATCH]
    packed = any(fact is not None and fact.value is not False for fact in variable)
    undecided = any(
        keys.lookup(setup.recipe.merged, key) is not None and fact is None
        for key, fact in zip(keys.VARIABLE_MICRO_BATCH, variable, strict=True)
    )
    if micro is None or packed or undecided:
        micro = 1
    if batch.value % (micro * data_parallel):
        place, line = setup.line_of(batch)
        yield Finding(
            BATCH.code,
            place,
            line,
            f"{batch.key} is {batch.value}{setup.where(batch)}, no multiple of micro-batch "
            f"{micro} × data-parallel size {data_parallel} = {micro * data_parallel}",
            BATCH.fix,
        )


def _model(setup: Setup, layout: Layout) -> Iterator[Finding]:
    known = shape_of(setup.facts)
    if known is None:
        return
    shape, source = known
    tensor = layout.size("tp") or 1
    cases: list[tuple[str, int | None, str]] = [
        ("tp", shape.heads, "attention heads"),
        # fewer key-value heads than ranks are copied, not split
        ("tp", shape.kv_heads if (shape.kv_heads or 0) >= tensor else None, "key-value heads"),
        ("ep", shape.experts, "experts"),
    ]
    for kind, count, what in cases:
        fact = layout.sizes.get(kind)
        if fact is None or count is None or count % fact.value == 0:
            continue
        place, line = setup.line_of(fact)
        yield Finding(
            MODEL.code,
            place,
            line,
            f"{fact.key} is {fact.value}, which does not divide the {count} {what} of {source}",
            MODEL.fix,
        )
        if kind == "tp":
            return
    yield from _stages(setup, layout, shape.layers, source)


def _stages(setup: Setup, layout: Layout, layers: int | None, source: str) -> Iterator[Finding]:
    """The layers that have no stage of a given depth are shared equally by the other stages."""
    pipeline = layout.sizes.get("pp")
    # of another team's torch backends it is not known how they cut the stack
    known = layout.backend == "megatron" or setup.is_ours
    if pipeline is None or layers is None or not known or pipeline.value == 1:
        return
    if any(keys.OTHER_STAGES.search(key) for key in _keys_of(setup.recipe.merged)):
        return
    given = [setup.facts.count(*stage) for stage in (keys.FIRST_STAGE, keys.LAST_STAGE)]
    rest = layers - sum(depth or 0 for depth in given)
    stages = pipeline.value - sum(depth is not None for depth in given)
    if (rest == 0 and stages == 0) or (stages > 0 and rest > 0 and rest % stages == 0):
        return
    place, line = setup.line_of(pipeline)
    what = f"{rest} of the {layers}" if rest != layers else str(layers)
    yield Finding(
        MODEL.code,
        place,
        line,
        f"{what} layers of {source} cannot be shared equally by {stages} pipeline stages",
        MODEL.fix,
    )


def _keys_of(tree: Any) -> Iterator[str]:
    for key, node in tree.items():
        if node.value not in (None, False):
            yield key
        if isinstance(node.value, dict):
            yield from _keys_of(node.value)
