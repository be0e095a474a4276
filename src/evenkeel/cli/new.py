"""``evenkeel new``: recipe, driver and listing entry from a name."""

from __future__ import annotations

import argparse
from pathlib import Path

from evenkeel.cli.rename import lint_touched, print_change
from evenkeel.recipes import scaffold
from evenkeel.run_paths import Repository

EXAMPLES = """\
examples:
  evenkeel new sft-qwen3-1.7b-1n8g-fsdp2tp2
  evenkeel new dpo-qwen3-8b-2n8g-fsdp2tp4 --from dpo-qwen3-8b-2n4g-fsdp2tp4sp --suite release
  evenkeel new sft-qwen3-1.7b-1n8g-fsdp2tp2 --dry-run

Without --from the recipe inherits from the algorithm's base and the model's file. The driver's
one check only asks that the run learned; replace it once runs have been seen.
exit status: 1 where the linter has something to say of the new files
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EXAMPLES
    parser.add_argument("name", metavar="NAME", help="the recipe's name; see docs/recipes.md")
    parser.add_argument("--from", dest="like", metavar="RECIPE", help="a recipe to inherit from")
    parser.add_argument("--suite", default="nightly", help="the listing it joins (nightly)")
    parser.add_argument("--dry-run", action="store_true", help="show it, write nothing")
    parser.add_argument("--root", type=Path, help="the repository (default: around you)")


def run(args: argparse.Namespace) -> int:
    """Write the files and show them."""
    start = args.root or Path.cwd()
    repository = Repository(start.resolve()) if args.root else Repository.around(start)
    change = scaffold.new(repository, args.name, args.like, args.suite)
    print_change(change, repository.root, dry_run=args.dry_run)
    for write in change.writes:
        if write.is_new:
            print(f"\n--- {write.path.relative_to(repository.root)}\n{write.text}", end="")
    if args.dry_run:
        return 0
    change.apply()
    return lint_touched(repository.root, [write.path for write in change.writes if write.is_new])
