"""A driver: its CONFIG block, the command that trains, and its checks; read, never run."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from evenkeel.errors import InputError
from evenkeel.recipes import name_exception
from evenkeel.recipes.config_block import RawBlock, from_raw, read_text, scan
from evenkeel.recipes.lint.claims import Claims, read_claims
from evenkeel.recipes.lint.driver_text import UNKNOWN, Command, Word, commands_of

_OVERRIDE = re.compile(r"(\+\+|\+|~)?([A-Za-z_][\w.]*)=")
_TRAINS = re.compile(r"(^|/)(run|train)_?[\w-]*\.py$")
_NOT_TRAINING = re.compile(r"eval|convert|dump|check|prepare|export|generat")
_CHECK_SCRIPT = "check_metrics.py"


class CheckText(NamedTuple):
    """One check of a driver.

    Args:
        text: the expression.
        line: where it begins.
        anchor: the first line of its command.
    """

    text: str
    line: int
    anchor: int


class CheckList(NamedTuple):
    """The checks of one command.

    Args:
        checks: those whose text is known.
        foreign: whether a script evaluates them in Python itself, where NaN compares as it likes.
    """

    checks: tuple[CheckText, ...]
    foreign: bool


class Training(NamedTuple):
    """What the command that trains says.

    Args:
        line: of the command.
        config: the value of ``--config``, or None where it is not said or not known.
        overrides: dotted key → (value or None where it is not known, line).
        open_ended: whether it has arguments that cannot be known.
        script: the script's file name.
    """

    line: int
    config: str | None
    overrides: Mapping[str, tuple[Any, int]]
    open_ended: bool
    script: str


class DriverFile:
    """A driver, read.

    Args:
        root: the tree's root.
        path: of the driver, relative to the root.
        mirrored: the path that its recipe must have.
    """

    def __init__(self, root: Path, path: str, mirrored: str) -> None:
        self.root = root
        self.path = path
        self.mirrored = mirrored
        self.name = Path(path).stem
        self.text = ""
        self.problem: InputError | None = None
        self.block: RawBlock | None = None
        self.block_problem: InputError | None = None
        self.numbers: dict[str, int] = {}
        try:
            self.text = read_text(root / path)
        except InputError as problem:
            self.problem = problem
        else:
            self._read_block()

    def _read_block(self) -> None:
        try:
            self.block = scan(self.text, self.path)
        except InputError as problem:
            self.block_problem = problem
            return
        self.numbers = {
            name: value for name, value in self.block.variables.items() if isinstance(value, int)
        }
        if self.block.missing:
            return
        try:
            block = from_raw(self.block)
        except InputError as problem:
            self.block_problem = problem
            return
        self.numbers |= {
            "NUM_NODES": block.num_nodes,
            "STEPS_PER_RUN": block.steps_per_run,
            "MAX_STEPS": block.max_steps,
            "NUM_RUNS": block.num_runs,
            "NUM_MINUTES": block.num_minutes,
        }
        if "GPUS_PER_NODE" in self.block.variables:
            self.numbers["GPUS_PER_NODE"] = block.gpus_per_node

    @property
    def claims(self) -> Claims:
        """What the name states."""
        return read_claims(self.name)

    @cached_property
    def allocation(self) -> tuple[int, int] | None:
        """(nodes, GPUs per node) that the name states or, as an exception, the driver's body."""
        if self.claims.allocation is not None:
            return self.claims.allocation
        try:
            declared = name_exception.find(self.text, self.path)
        except InputError:
            return None
        return None if declared is None else (declared.num_nodes, declared.gpus_per_node)

    @property
    def executable(self) -> bool:
        """Whether the file's mode lets its owner run it."""
        return bool(os.stat(self.root / self.path).st_mode & 0o100)  # noqa: PTH116

    def line_of(self, variable: str) -> int:
        """The line of a variable's assignment, else the block's first."""
        if self.block is None:
            return 1
        line = self.block.last(variable)
        return self.block.begin_line if line is None else line.line

    @cached_property
    def commands(self) -> list[Command]:
        """Its simple commands, with what is known filled in."""
        known = {
            "PROJECT_ROOT": str(self.root),
            "SCRIPT_DIR": str((self.root / self.path).parent),
            "EXP_NAME": self.name,
            **{name: str(value) for name, value in self.numbers.items()},
        }
        text = self.text.replace("\r\n", "\n")
        if "CONFIG_PATH=" not in text:
            known["CONFIG_PATH"] = str(self.root / self.mirrored)
        return commands_of(text, known)

    @cached_property
    def training(self) -> Training | None:
        """The commands that train, as one; None where none is found."""
        found = [_training(command) for command in self.commands if _trains(command)]
        if not found:
            return None
        first = found[0]
        if len(found) == 1:
            return first
        keys = {key for one in found for key in one.overrides}
        merged: dict[str, tuple[Any, int]] = {}
        for key in keys:
            values = [one.overrides.get(key, (None, first.line)) for one in found]
            same = all(value[0] == values[0][0] for value in values)
            merged[key] = values[0] if same else (None, values[0][1])
        configs = {one.config for one in found}
        return Training(
            first.line,
            first.config if len(configs) == 1 else None,
            merged,
            any(one.open_ended for one in found),
            first.script,
        )

    @cached_property
    def recipe(self) -> str:
        """The recipe that it trains, relative to the root."""
        config = None if self.training is None else self.training.config
        if config is None:
            return self.mirrored
        root = str(self.root)
        absolute = posixpath.normpath(config if config[0] == "/" else f"{root}/{config}")
        if not absolute.startswith(f"{root}/"):
            return self.mirrored
        return absolute[len(root) + 1 :]

    @cached_property
    def check_lists(self) -> list[CheckList]:
        """Its checks of metrics.json, by command."""
        return [found for command in self.commands if (found := _checks(command)) is not None]


def _trains(command: Command) -> bool:
    words = command.words
    if words[0].text == "train" and len(words) > 1:
        return True
    script = _script(words)
    if script is None or _NOT_TRAINING.search(script):
        return False
    return any(word.text == "--config" or word.text.startswith("--config=") for word in words)


def _script(words: tuple[Word, ...]) -> str | None:
    for word in words:
        if _TRAINS.search(word.text):
            return word.text.rsplit("/", 1)[-1]
    return None


def _training(command: Command) -> Training:
    config: str | None = None
    overrides: dict[str, tuple[Any, int]] = {}
    open_ended = False
    words = iter(command.words)
    for word in words:
        if word.text == "--config":
            value = next(words, None)
            config = value.text if value is not None and value.known else None
        elif word.text.startswith("--config="):
            config = word.text.removeprefix("--config=") if word.known else None
        elif match := _OVERRIDE.match(word.text):
            value_text = word.text[match.end() :]
            known = word.known and match[1] != "~"
            overrides[match[2]] = (_plain(value_text) if known else None, word.line)
        elif not word.known and not re.fullmatch(r"\"?\$(\{)?[@*](\})?\"?", word.source):
            open_ended = True
    return Training(
        command.line, config or None, overrides, open_ended, _script(command.words) or ""
    )


def _plain(text: str) -> Any:
    """An override's value as YAML reads a plain scalar."""
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _checks(command: Command) -> CheckList | None:
    words = command.words
    first = words[0].text
    foreign = False
    if first == "judge":
        rest = words[1:]
    elif first == "evenkeel" and len(words) > 2 and words[1].text == "check":
        rest = words[3:]
    else:
        at = next((i for i, word in enumerate(words) if word.text.endswith(_CHECK_SCRIPT)), None)
        if at is None or at + 1 >= len(words):
            return None
        # other files than the run's metrics hold other things
        if "JSON_METRICS" not in words[at + 1].source and not words[at + 1].source.strip(
            "'\""
        ).endswith("/metrics.json"):
            return None
        rest, foreign = words[at + 2 :], True
    checks = tuple(
        CheckText(word.text, word.line, command.line)
        for word in rest
        if UNKNOWN not in word.text and not word.text.startswith("--")
    )
    return CheckList(checks, foreign)
