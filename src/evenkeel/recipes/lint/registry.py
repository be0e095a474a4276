"""What a finding is, and the one table of rules: code, reason, fix and the function that looks.

A rule says with a code what can be wrong; a check function looks at one subject and yields
findings of the codes that it registered for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from evenkeel.recipes.lint.tree import Tree


class Severity(StrEnum):
    """How SARIF and GitHub show a finding; every finding counts for the exit status."""

    ERROR = "error"
    WARNING = "warning"


class EditKind(StrEnum):
    """The ways in which a file is repaired."""

    REPLACE = "replace"
    DELETE = "delete"
    EXECUTABLE = "executable"


class Edit(NamedTuple):
    """One certain repair.

    Args:
        kind: what to do with the lines ``first`` to ``last`` (from 1, inclusive).
        first: first line concerned.
        last: last line concerned.
        old: the text that must stand there now, so that nothing else is ever changed.
        new: for ``replace``: what takes its place within those lines.
    """

    kind: EditKind
    first: int = 1
    last: int = 1
    old: str = ""
    new: str = ""


class Finding(NamedTuple):
    """One thing that is wrong.

    Args:
        code: of the rule, as ``EK203``.
        path: of the file, relative to the root, with ``/``.
        line: counted from 1; 1 where the whole file is meant.
        message: what is wrong, with the values that disagree.
        fix: what to do about it.
        anchor: first line of the statement that ``line`` is part of; a waiver may stand there.
        edit: the repair that ``--fix`` makes, where it is certain.
    """

    code: str
    path: str
    line: int
    message: str
    fix: str
    anchor: int | None = None
    edit: Edit | None = None

    def as_json(self) -> dict[str, str | int]:
        """The object of the JSON report."""
        return {
            "code": self.code,
            "path": self.path,
            "line": self.line,
            "message": self.message,
            "fix": self.fix,
        }


@dataclass(frozen=True)
class Rule:
    """One line of the table of rules."""

    code: str
    title: str
    reason: str
    fix: str
    severity: Severity = Severity.ERROR
    fixable: bool = False


class Subject(StrEnum):
    """What a check function is called with, once for each."""

    DRIVER = "driver"
    RECIPE = "recipe"
    LISTING = "listing"
    CONFIG = "config"
    """A YAML file that recipes inherit from."""


Look = Callable[["Tree", Any], Iterable[Finding]]

RULES: dict[str, Rule] = {}
LOOKS: list[tuple[Subject, tuple[str, ...], Look]] = []


def declare(
    code: str,
    title: str,
    *,
    reason: str,
    fix: str,
    severity: Severity = Severity.ERROR,
    fixable: bool = False,
) -> Rule:
    """Put a rule into the table."""
    assert code not in RULES, code
    RULES[code] = Rule(code, title, reason, fix, severity, fixable)
    return RULES[code]


def looks_at(subject: Subject, *rules: Rule) -> Callable[[Look], Look]:
    """Register a function that yields findings of ``rules`` for each ``subject``."""

    def register(function: Look) -> Look:
        LOOKS.append((subject, tuple(rule.code for rule in rules), function))
        return function

    return register


def findings_of(tree: Tree, subject: Subject, thing: object, wanted: set[str]) -> Iterator[Finding]:
    """What the registered functions find, of the codes in ``wanted`` alone."""
    for kind, codes, look in LOOKS:
        if kind is subject and not wanted.isdisjoint(codes):
            yield from (finding for finding in look(tree, thing) if finding.code in wanted)
