"""``evenkeel plan``: what drivers cost, what they used, and what fits a budget."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from evenkeel.cli.dry_run import print_estimate
from evenkeel.errors import InputError
from evenkeel.launch import drivers as drivers_of
from evenkeel.run_paths import Repository

EPILOG = """\
examples:
  evenkeel plan tests/test_suites/llm/*.sh     GPU-hours of each driver and in total
  evenkeel plan --suite nightly --json         the same of a listing, for machines
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a plan."""
    parser.epilog = EPILOG
    parser.add_argument(
        "drivers", nargs="*", metavar="DRIVER", help="driver scripts (default: all of them)"
    )
    parser.add_argument("--suite", help="the drivers of a listing of tests/test_suites")
    parser.add_argument("--root", type=Path, help="the repository (default: around you)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the plan; 0, or 2 when a driver is broken."""
    return print_estimate(_drivers(args), as_json=args.json)


def _drivers(args: argparse.Namespace) -> Sequence[drivers_of.DriverWord]:
    if args.suite and args.drivers:
        raise InputError("both drivers and --suite are given", fix="name one of the two")
    if args.drivers:
        return drivers_of.find(args.drivers, args.root)
    root = args.root or Repository.around(Path.cwd()).root
    if args.suite:
        return drivers_of.of_suite(args.suite, root)
    return drivers_of.all_below(root)
