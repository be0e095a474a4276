"""``evenkeel bump``: the next ``.vN`` of a recipe."""

from __future__ import annotations

import argparse

from evenkeel.cli.rename import add_common, carry_out, repository_of
from evenkeel.recipes import renaming

EXAMPLES = """\
examples:
  evenkeel bump grpo-qwen2.5-7b-instruct-4n8g-fsdp2tp4sp.v3      # becomes ….v4
  evenkeel bump sft-llama3.2-1b-1n8g-fsdp2tp1 --dry-run          # would become ….v2

A new version says that the recipe converges otherwise than before: other data, loss, optimizer,
schedule, batch, sequence length, model or precision. A change of speed alone needs none.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EXAMPLES
    parser.add_argument("name", metavar="NAME", help="the recipe's name now")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Rename to the next version, and lint what was renamed."""
    repository = repository_of(args)
    new = renaming.next_version(repository, args.name)
    return carry_out(repository, args.name, new, dry_run=args.dry_run)
