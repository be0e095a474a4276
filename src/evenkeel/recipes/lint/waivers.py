"""Waivers: ``# evenkeel: allow EK504: reason`` in the file that a finding is about.

At the end of a line it covers that line; on a line of its own the next line that is neither blank
nor comment, with the whole statement that begins there; in the comments at the top of a file the
whole file. Without a reason it waives nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from evenkeel.errors import did_you_mean
from evenkeel.recipes.lint.registry import RULES, Finding, declare

NO_REASON = declare(
    "EK901",
    "waiver without a reason",
    reason="Whoever reads it later cannot tell whether it still holds.",
    fix="Write # evenkeel: allow CODE: reason.",
)
UNUSED = declare(
    "EK902",
    "waiver without effect",
    reason="It hides the next real finding of its rule.",
    fix="Remove it.",
)
UNKNOWN_CODE = declare(
    "EK903",
    "waiver of an unknown rule",
    reason="It waives nothing.",
    fix="Correct the code.",
)

MARK = "evenkeel:"
_WAIVER = re.compile(r"#.*?\bevenkeel:\s*allow\b\s*([^:]*?)\s*(?::\s*(.*?))?\s*$")
_WHOLE_FILE = 0


class Waiver(NamedTuple):
    """One waiver.

    Args:
        line: where it stands.
        covers: the line that it covers; 0: the whole file.
        codes: of the rules that it waives.
        reason: why; empty where none is given.
    """

    line: int
    covers: int
    codes: tuple[str, ...]
    reason: str


def waivers_of(text: str) -> list[Waiver]:
    """The waivers in a file's text."""
    if MARK not in text:
        return []
    found: list[Waiver] = []
    rows = text.split("\n")
    at_top = True
    for index, row in enumerate(rows):
        stripped = row.strip()
        alone = stripped.startswith("#")
        if stripped and not alone:
            at_top = False
        if MARK not in row:
            continue
        match = _WAIVER.search(row)
        if match is None:
            continue
        codes = tuple(re.split(r"[\s,]+", match[1].strip())) if match[1].strip() else ()
        covers = index + 1
        if alone:
            covers = _WHOLE_FILE if at_top else _next_line(rows, index)
        found.append(Waiver(index + 1, covers, codes, match[2] or ""))
    return found


def _next_line(rows: Sequence[str], index: int) -> int:
    for later in range(index + 1, len(rows)):
        stripped = rows[later].strip()
        if stripped and not stripped.startswith("#"):
            return later + 1
    return index + 1


def apply(
    path: str, waivers: Sequence[Waiver], findings: Sequence[Finding], active: Collection[str]
) -> Iterator[Finding]:
    """The findings of one file that are not waived, and what is wrong with its waivers.

    Args:
        path: of the file.
        waivers: those that stand in it.
        findings: those that are about it.
        active: codes of the rules that looked at it; others may well have findings.
    """
    used: set[tuple[int, str]] = set()
    for finding in findings:
        allowed = False
        for waiver in waivers:
            if waiver.reason and finding.code in waiver.codes and _covers(waiver, finding):
                used.add((waiver.line, finding.code))
                allowed = True
        if not allowed:
            yield finding
    for waiver in waivers:
        yield from (found for found in _faults(path, waiver, used, active) if found.code in active)


def _covers(waiver: Waiver, finding: Finding) -> bool:
    return waiver.covers in (_WHOLE_FILE, finding.line, finding.anchor)


def _faults(
    path: str, waiver: Waiver, used: set[tuple[int, str]], active: Collection[str]
) -> Iterator[Finding]:
    if not waiver.reason or not waiver.codes:
        yield Finding(
            NO_REASON.code, path, waiver.line, "the waiver gives no reason", NO_REASON.fix
        )
        return
    for code in waiver.codes:
        if code not in RULES:
            yield Finding(
                UNKNOWN_CODE.code,
                path,
                waiver.line,
                f"there is no rule {code!r}{did_you_mean(code, RULES)}",
                "'evenkeel lint --explain all' lists the rules",
            )
        elif code in active and (waiver.line, code) not in used:
            yield Finding(
                UNUSED.code, path, waiver.line, f"{code} has nothing to waive here", UNUSED.fix
            )
