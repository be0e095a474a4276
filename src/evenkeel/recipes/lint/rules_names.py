"""Name ↔ CONFIG block ↔ resolved recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evenkeel.recipes.lint import facts as keys
from evenkeel.recipes.lint.driver_file import DriverFile
from evenkeel.recipes.lint.facts import mentions_fp8
from evenkeel.recipes.lint.registry import Finding, Subject, declare, looks_at
from evenkeel.recipes.lint.setup import Setup, setup_of_driver, setup_of_recipe
from evenkeel.recipes.lint.tree import Tree

NODES = declare(
    "EK203",
    "number of nodes disagrees",
    reason="The name says what is tested, the CONFIG block what is paid for, the recipe what runs.",
    fix="Make name, NUM_NODES and cluster.num_nodes the same number.",
)
GPUS = declare(
    "EK204",
    "GPUs per node disagree",
    reason="A name of 4 GPUs over a recipe of 8 tests another layout than it says.",
    fix="Make name, GPUS_PER_NODE and cluster.gpus_per_node the same number.",
)
SIZES = declare(
    "EK205",
    "parallel size in the name is not the recipe's",
    reason="The layout that the name promises is not the one that is tested.",
    fix="Correct the size in the recipe, or rename recipe and driver.",
)
BACKEND = declare(
    "EK206",
    "backend in the name is not the recipe's",
    reason="The backend that the name promises is not the one that is tested.",
    fix="Switch the backend in the recipe, or rename recipe and driver.",
)
PRECISION = declare(
    "EK207",
    "name says fp8, the recipe does not",
    reason="The precision that the name promises is not the one that is tested.",
    fix="Switch fp8 on in the recipe, or rename recipe and driver.",
)
LENGTH = declare(
    "EK208",
    "-long is not longer",
    reason="A -long recipe that trains no longer than its namesake repeats it.",
    fix="Give it more steps, or drop -long from the name.",
)
FLAG = declare(
    "EK209",
    "flag in the name is off in the recipe",
    reason="The feature that the name promises is not tested.",
    fix="Switch it on in the recipe, or rename recipe and driver.",
)
ALGORITHM = declare(
    "EK210",
    "algorithm in the name is not the recipe's",
    reason="The algorithm that the name promises is not the one that is trained.",
    fix="Correct the recipe's algorithm, or rename recipe and driver.",
)
DEFAULT_GPUS = 8
# algorithms whose scripts are called after them
_SCRIPTED = frozenset({"sft", "dpo", "grpo", "rm", "distillation", "pretrain"})
_WORDS = {"tp": "tensor", "pp": "pipeline", "cp": "context", "ep": "expert"}


@looks_at(Subject.DRIVER, NODES, GPUS)
def allocation_of_the_driver(tree: Tree, path: str) -> Iterator[Finding]:
    """NUM_NODES and GPUS_PER_NODE are what the name says; without that, what the recipe says."""
    driver = tree.driver(path)
    setup = setup_of_driver(tree, path)
    claimed = driver.allocation
    for variable, fact_keys, rule, index in (
        ("NUM_NODES", keys.NUM_NODES, NODES, 0),
        ("GPUS_PER_NODE", keys.GPUS_PER_NODE, GPUS, 1),
    ):
        value = _in_block(tree, driver, variable, setup)
        if value is None:
            continue
        said = f"{variable}={value}" if variable in driver.numbers else f"no {variable}, so {value}"
        if claimed is not None:
            if value != claimed[index]:
                yield Finding(
                    rule.code,
                    path,
                    driver.line_of(variable),
                    f"the CONFIG block has {said}, but the name says {_shown(claimed)}",
                    f"write {variable}={claimed[index]}, or rename the recipe",
                )
            continue
        fact = None if setup is None else setup.facts.get(*fact_keys)
        if fact is not None and fact.is_count and fact.value != value:
            yield Finding(
                rule.code,
                path,
                driver.line_of(variable),
                f"the CONFIG block has {said}, but {fact.key} is {fact.value} ({fact.origin})",
                f"make {variable} and {fact.key} the same",
            )


def _in_block(tree: Tree, driver: DriverFile, variable: str, setup: Setup | None) -> int | None:
    value = driver.numbers.get(variable)
    if value is not None or variable != "GPUS_PER_NODE" or driver.block is None:
        return value
    # an absent GPUS_PER_NODE is 8 where drivers say it when it is not
    if driver.allocation is None or "GPUS_PER_NODE" in driver.block.variables:
        return None
    declared = (setup is not None and setup.is_ours) or tree.declares_gpus_per_node
    return DEFAULT_GPUS if declared else None


@looks_at(Subject.RECIPE, NODES, GPUS)
def allocation_of_the_recipe(tree: Tree, path: str) -> Iterator[Finding]:
    """The recipe's cluster is what its name says."""
    setup = setup_of_recipe(tree, path)
    if setup is None:
        return
    claimed = setup.claims.allocation or (setup.driver.allocation if setup.driver else None)
    if claimed is None:
        return
    for rule, fact_keys, index in ((NODES, keys.NUM_NODES, 0), (GPUS, keys.GPUS_PER_NODE, 1)):
        fact = setup.facts.get(*fact_keys)
        if fact is None or type(fact.value) is not int or fact.value == claimed[index]:
            continue
        place, line = setup.line_of(fact)
        yield Finding(
            rule.code,
            place,
            line,
            f"{fact.key} is {fact.value}{setup.where(fact)}, but the name says {_shown(claimed)}",
            f"write {fact.key.rsplit('.', 1)[-1]}: {claimed[index]}, or rename the recipe",
        )


def _shown(allocation: tuple[int, int]) -> str:
    return f"{allocation[0]}n{allocation[1]}g"


@looks_at(Subject.RECIPE, SIZES, BACKEND, PRECISION, FLAG, ALGORITHM)
def layout_of_the_recipe(tree: Tree, path: str) -> Iterator[Finding]:
    """Backend, sizes, precision and flags are what the name says."""
    setup = setup_of_recipe(tree, path)
    if setup is None:
        return
    claims, layout = setup.claims, setup.layout
    if layout is not None and claims.backend not in (None, layout.backend):
        place, line = setup.line_of(layout.switch)
        yield Finding(
            BACKEND.code,
            place,
            line,
            f"the recipe trains with {layout.backend} ({layout.switch.key}: "
            f"{_yaml(layout.switch.value)}{setup.where(layout.switch)}), "
            f"but the name says {claims.backend}",
            BACKEND.fix,
        )
    elif layout is not None:
        yield from _sizes(setup)
    else:
        yield from _switches(setup)
    if any("fp8" in flag for flag in claims.flags) and not mentions_fp8(setup.recipe.merged):
        overridden = setup.driver is not None and "fp8" in _arguments(setup.driver)
        if not overridden:
            yield Finding(
                PRECISION.code,
                path,
                1,
                "the name says fp8, but nothing in the recipe is",
                PRECISION.fix,
            )
    yield from _flags(setup)
    if setup.is_ours:
        fact = setup.facts.get("algorithm")
        if fact is not None and fact.value != claims.algo:
            place, line = setup.line_of(fact)
            yield Finding(
                ALGORITHM.code,
                place,
                line,
                f"the recipe's algorithm is {fact.value}{setup.where(fact)}, "
                f"but the name says {claims.algo}",
                ALGORITHM.fix,
            )


def _switches(setup: Setup) -> Iterator[Finding]:
    """Two backends on, or none, by what the recipe itself says."""
    switches = keys.switches_of(setup.facts)
    if not switches or setup.claims.backend is None or setup.is_ours:
        return
    own = [fact for _, fact in switches if setup.line_of(fact)[1] > 1]
    if not own:
        return  # what a base says is how this collection does it
    active = [fact.key for known, fact in switches if keys.is_on(known, fact)]
    said = f"{' and '.join(active)} are both on" if active else "no backend is switched on"
    place, line = setup.line_of(own[0])
    yield Finding(
        BACKEND.code,
        place,
        line,
        f"{said}, and the name says {setup.claims.backend}",
        "switch on the one backend that the name says",
    )


def _sizes(setup: Setup) -> Iterator[Finding]:
    assert setup.layout is not None
    for kind, claimed in setup.claims.sizes.items():
        fact = setup.layout.sizes.get(kind)
        if kind not in _WORDS or fact is None or fact.value == claimed:
            continue
        place, line = setup.line_of(fact)
        yield Finding(
            SIZES.code,
            place,
            line,
            f"{fact.key} is {fact.value}{setup.where(fact)}, but the name says {kind}{claimed}",
            f"write {fact.key.rsplit('.', 1)[-1]}: {claimed}, or rename the recipe",
        )
    if not setup.is_ours or not setup.claims.sizes:
        return
    for kind, fact in setup.layout.sizes.items():
        if kind in _WORDS and kind not in setup.claims.sizes and fact.value != 1:
            place, line = setup.line_of(fact)
            yield Finding(
                SIZES.code,
                place,
                line,
                f"{fact.key} is {fact.value}{setup.where(fact)}, but the name's strategy has no "
                f"{kind}{fact.value}",
                f"add {kind}{fact.value} to the name, or remove the key",
            )


def _flags(setup: Setup) -> Iterator[Finding]:
    for table, wanted in ((keys.FLAGS, True), (keys.NEGATED_FLAGS, False)):
        for flag in sorted(setup.claims.flags & table.keys()):
            found = [fact for key in table[flag] if (fact := setup.facts.get(key)) is not None]
            present = [key for key in table[flag] if keys.lookup(setup.recipe.merged, key)]
            if not found or len(found) < len(present):
                continue
            if all(fact.value is (not wanted) for fact in found):
                place, line = setup.line_of(found[0])
                yield Finding(
                    FLAG.code,
                    place,
                    line,
                    f"the name says {flag}, but {found[0].key} is {_yaml(found[0].value)}"
                    f"{setup.where(found[0])}",
                    f"write {found[0].key.rsplit('.', 1)[-1]}: {_yaml(wanted)}, "
                    "or rename the recipe",
                )


@looks_at(Subject.DRIVER, ALGORITHM)
def script_is_of_the_algorithm(tree: Tree, path: str) -> Iterator[Finding]:
    """A driver called sft does not call the script of dpo."""
    driver = tree.driver(path)
    training, algo = driver.training, driver.claims.algo
    if training is None or algo not in _SCRIPTED:
        return
    of_script = _SCRIPTED.intersection(training.script.removesuffix(".py").split("_"))
    if of_script and algo not in of_script:
        yield Finding(
            ALGORITHM.code,
            path,
            training.line,
            f"the driver calls {training.script}, but the name says {algo}",
            "call the script of the algorithm, or rename recipe and driver",
        )


@looks_at(Subject.DRIVER, LENGTH)
def long_is_longer(tree: Tree, path: str) -> Iterator[Finding]:
    """A ``-long`` driver has more steps than the one of the same name without it."""
    driver = tree.driver(path)
    name = driver.claims.stem
    if "long" not in driver.claims.flags or not name.endswith("-long"):
        return
    folder = path.rsplit("/", 1)[0]
    version = driver.name[len(name) :]
    for twin in (f"{name.removesuffix('-long')}{version}", name.removesuffix("-long")):
        other_path = f"{folder}/{twin}.sh"
        if not tree.exists(other_path):
            continue
        other = tree.driver(other_path)
        own_steps, steps = driver.numbers.get("MAX_STEPS"), other.numbers.get("MAX_STEPS")
        if own_steps is not None and steps is not None and own_steps <= steps:
            yield Finding(
                LENGTH.code,
                path,
                driver.line_of("MAX_STEPS"),
                f"MAX_STEPS is {own_steps}, no more than the {steps} of {Path(other_path).name}",
                LENGTH.fix,
            )
        return


def _arguments(driver: DriverFile) -> str:
    training = driver.training
    if training is None:
        return ""
    shown = " ".join(
        f"{key}={value[0]}" for key, value in training.overrides.items() if "policy" in key
    )
    return shown.lower() + ("fp8" if training.open_ended else "")


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
