"""``evenkeel rename``: another name for a recipe and everything that bears it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from evenkeel.errors import EXIT_FINDING, EXIT_OK
from evenkeel.recipes import renaming
from evenkeel.recipes.tree_change import Change
from evenkeel.run_paths import Repository

EXAMPLES = """\
examples:
  evenkeel rename sft-qwen3-0.6b-1n4g-dtensor2tp2 sft-qwen3-0.6b-1n4g-fsdp2tp2
  evenkeel rename OLD NEW --dry-run

Moves recipe, driver and baselines, and changes the listings and the defaults of recipes that
inherit from it: all of it or nothing. Results of earlier runs keep their folder.
exit status: 1 where the linter has something to say of the renamed files
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EXAMPLES
    parser.add_argument("old", metavar="OLD", help="the recipe's name now")
    parser.add_argument("new", metavar="NEW", help="the name it gets")
    add_common(parser)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options that ``bump`` has, too."""
    parser.add_argument("--dry-run", action="store_true", help="show it, change nothing")
    parser.add_argument("--root", type=Path, help="the repository (default: around you)")


def run(args: argparse.Namespace) -> int:
    """Rename, and lint what was renamed."""
    return carry_out(repository_of(args), args.old, args.new, dry_run=args.dry_run)


def repository_of(args: argparse.Namespace) -> Repository:
    """The tree that ``--root`` names, or the one around the working directory."""
    return Repository(args.root.resolve()) if args.root else Repository.around(Path.cwd())


def carry_out(repository: Repository, old: str, new: str, *, dry_run: bool) -> int:
    """Rename ``old`` to ``new`` and show it; the result is the exit status."""
    change = renaming.rename(repository, old, new)
    print_change(change, repository.root, dry_run=dry_run)
    if dry_run:
        return EXIT_OK
    change.apply()
    files = [move.target for move in change.moves if move.target.suffix in (".sh", ".yaml")]
    return lint_touched(repository.root, files)


def print_change(change: Change, root: Path, *, dry_run: bool) -> None:
    """One line for each file."""
    if dry_run:
        print("dry run: nothing is changed")
    print("\n".join(change.lines(root, planned=dry_run)))


def lint_touched(root: Path, paths: Sequence[Path]) -> int:
    """Lint some files of the tree and print the findings; the result is the exit status."""
    from evenkeel.recipes.lint.engine import lint
    from evenkeel.report.lint_formats import Format, render

    relative = [path.relative_to(root).as_posix() for path in paths if path.is_file()]
    report = lint(root, relative)
    print("\n" + render(report, Format.TEXT).rstrip("\n"))
    return EXIT_FINDING if report.findings else EXIT_OK
