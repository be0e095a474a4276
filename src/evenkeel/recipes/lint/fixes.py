"""Repairs what is certain: edits of findings, applied from the last line of a file to the first."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from evenkeel.atomic_file import write_text
from evenkeel.recipes.lint.registry import Edit, EditKind, Finding


def apply(root: Path, findings: Sequence[Finding]) -> list[Finding]:
    """Make the edits of ``findings``.

    An edit whose lines no longer say what the rule saw, or that overlaps one already made, is
    left out; the next run finds it again.

    Returns:
        the findings that were repaired.

    Raises:
        MachineError: a file cannot be written; files before it are repaired.
    """
    by_path: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.edit is not None:
            by_path.setdefault(finding.path, []).append(finding)
    repaired: list[Finding] = []
    for path, found in sorted(by_path.items()):
        repaired.extend(_apply_to_file(root / path, found))
    return repaired


def _apply_to_file(path: Path, findings: Sequence[Finding]) -> list[Finding]:
    done: list[Finding] = []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        text = file.read()
    rows = text.split("\n")
    untouched = len(rows) + 1
    for finding in sorted(findings, key=_last_line, reverse=True):
        edit = finding.edit
        assert edit is not None
        if edit.kind is EditKind.EXECUTABLE:
            _make_executable(path)
            done.append(finding)
        elif edit.last < untouched and _edit_rows(rows, edit):
            untouched = edit.first
            done.append(finding)
    changed = "\n".join(rows)
    if changed != text:
        _write(path, changed)
    return done


def _last_line(finding: Finding) -> tuple[int, int]:
    assert finding.edit is not None
    return finding.edit.last, -finding.edit.first


def _edit_rows(rows: list[str], edit: Edit) -> bool:
    place = slice(edit.first - 1, edit.last)
    standing = [row.removesuffix("\r") for row in rows[place]]
    if standing != [row.removesuffix("\r") for row in edit.old.split("\n")]:
        return False
    ending = "\r" if rows[place] and rows[place][0].endswith("\r") else ""
    if edit.kind is EditKind.REPLACE:
        rows[place] = [f"{row}{ending}" for row in edit.new.split("\n")]
    else:
        # a comment on a line of its own belongs to whoever wrote it
        rows[place] = [row for row in rows[place] if row.strip().startswith("#")]
    return True


def _make_executable(path: Path) -> None:
    mode = path.stat().st_mode
    readable = mode & (stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    path.chmod(mode | stat.S_IXUSR | (readable >> 2))


def _write(path: Path, text: str) -> None:
    target = path.resolve()  # a link stays a link
    if any("\ud800" <= char <= "\udfff" for char in text):
        return  # bytes that are not UTF-8: leave the file alone
    write_text(target, text)
