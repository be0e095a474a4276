"""The CONFIG block: readable, complete, and right in its arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterator

from evenkeel.errors import did_you_mean
from evenkeel.recipes.config_block import REQUIRED, Line
from evenkeel.recipes.lint.driver_file import DriverFile
from evenkeel.recipes.lint.registry import Edit, EditKind, Finding, Subject, declare, looks_at
from evenkeel.recipes.lint.tree import Tree

KNOWN = (*REQUIRED, "GPUS_PER_NODE")

BROKEN = declare(
    "EK301",
    "CONFIG block cannot be read",
    reason="Launching reads the block without running it: plain assignments and $(( … )) alone.",
    fix="Write NAME=value lines between the BEGIN CONFIG and END CONFIG lines.",
)
MISSING = declare(
    "EK302",
    "CONFIG variable missing",
    reason="Without it neither the allocation nor the cost of the run is known.",
    fix="Assign it in the CONFIG block.",
)
UNKNOWN_VARIABLE = declare(
    "EK303",
    "CONFIG variable unknown",
    reason="A mistyped variable is silently ignored and its default is used.",
    fix="Correct the name, or move the assignment out of the block.",
)
WRONG_RUNS = declare(
    "EK304",
    "NUM_RUNS is not MAX_STEPS / STEPS_PER_RUN rounded up",
    reason="Too few jobs never reach MAX_STEPS; too many are paid for and do nothing.",
    fix="NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))",
    fixable=True,
)
ROUNDED_UP = "$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))"


@looks_at(Subject.DRIVER, BROKEN, MISSING, UNKNOWN_VARIABLE, WRONG_RUNS)
def config_block_is_right(tree: Tree, path: str) -> Iterator[Finding]:
    """The block reads, has all variables, and NUM_RUNS is what it must be."""
    driver = tree.driver(path)
    if driver.problem is not None:
        return
    problem = driver.block_problem
    if problem is not None:
        message = problem.message.removeprefix("CONFIG block: ")
        column = f" (column {problem.column})" if problem.column else ""
        yield Finding(
            BROKEN.code, path, problem.line or 1, f"{message}{column}", problem.fix or BROKEN.fix
        )
    if driver.block is None:
        return
    if driver.block.crlf:
        yield Finding(
            BROKEN.code,
            path,
            driver.block.begin_line,
            "lines end in CR LF, which bash does not take for the end of a line",
            "save the file with LF line ends",
        )
    for name in driver.block.missing:
        yield Finding(
            MISSING.code,
            path,
            driver.block.begin_line,
            f"the CONFIG block does not assign {name}",
            f"add {name}={ROUNDED_UP if name == 'NUM_RUNS' else '<number>'} to the block",
        )
    yield from _unknown(driver, driver.block.assignments)
    yield from _runs(driver)


def _unknown(driver: DriverFile, lines: tuple[Line, ...]) -> Iterator[Finding]:
    for line in lines:
        if line.name in KNOWN or _is_used(driver, line.name):
            continue
        hint = did_you_mean(line.name, KNOWN)
        yield Finding(
            UNKNOWN_VARIABLE.code,
            driver.path,
            line.line,
            f"{line.name} is no variable of a CONFIG block, and nothing here uses it{hint}",
            f"the block has {', '.join(KNOWN)}",
        )


def _is_used(driver: DriverFile, name: str) -> bool:
    uses = re.findall(rf"\b{re.escape(name)}\b(?!=)", driver.text)
    return bool(uses) or bool(re.search(rf"\bexport\b[^\n]*\b{re.escape(name)}\b", driver.text))


def _runs(driver: DriverFile) -> Iterator[Finding]:
    numbers = driver.numbers
    if driver.block is None or not {"MAX_STEPS", "STEPS_PER_RUN", "NUM_RUNS"} <= numbers.keys():
        return
    steps, per_run, runs = numbers["MAX_STEPS"], numbers["STEPS_PER_RUN"], numbers["NUM_RUNS"]
    if steps < 1 or per_run < 1:
        return
    right = -(-steps // per_run)
    line = driver.block.last("NUM_RUNS")
    if runs == right or line is None:
        return
    row = driver.text.split("\n")[line.line - 1].rstrip("\r")
    edit = None
    start = line.column - 1
    inputs = (driver.line_of("MAX_STEPS"), driver.line_of("STEPS_PER_RUN"))
    if row[start : start + len(line.raw)] == line.raw and max(inputs) < line.line:
        mended = row[:start] + ROUNDED_UP + row[start + len(line.raw) :]
        edit = Edit(EditKind.REPLACE, line.line, line.line, row, mended)
    yield Finding(
        WRONG_RUNS.code,
        driver.path,
        line.line,
        f"NUM_RUNS is {runs}, but {steps} steps at {per_run} a run take {right}",
        f"NUM_RUNS={ROUNDED_UP}",
        edit=edit,
    )
