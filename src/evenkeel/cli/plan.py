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
  evenkeel plan tests/test_suites/llm/*.sh      # GPU-hours of each driver and in total
  evenkeel plan --suite nightly --json          # the same of a listing, for machines
  evenkeel plan --suite nightly --history       # and what past launches used; proposes NUM_MINUTES
  evenkeel plan --suite nightly --budget 4000   # does a night fit, or how many nights does it take
  evenkeel plan --suite nightly --budget 4000 --nights 5
                                               # tonight's share of a rotation of 5 nights, and why

A suite may declare its budget: '#: budget_gpu_hours_per_night: 4000', and …_per_week.
exit status: 0 fits; 1 does not fit; 2 a driver is broken
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a plan."""
    parser.epilog = EPILOG
    parser.add_argument(
        "drivers",
        nargs="*",
        metavar="DRIVER",
        help="driver scripts, or names of recipes (default: all)",
    )
    parser.add_argument("--suite", help="the drivers of a listing of tests/test_suites")
    parser.add_argument("--root", type=Path, help="the repository (default: around you)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--budget",
        nargs="?",
        const="",
        metavar="HOURS",
        help="GPU-hours of a night (default: as the suite declares)",
    )
    parser.add_argument(
        "--nights", type=int, metavar="N", help="rotate: every recipe once in N nights"
    )
    parser.add_argument("--night", metavar="DATE", help="which night, as 2026-01-31 (default: now)")
    parser.add_argument("--history", action="store_true", help="what past launches used")
    parser.add_argument("--snapshot-dir", metavar="DIR", help="instead of code_snapshots")


def run(args: argparse.Namespace) -> int:
    """Print the plan; 0, 1 where it is above the budget, 2 when a driver is broken."""
    if args.night is not None and args.nights is None:
        raise InputError(
            f"--night {args.night} is a night of a rotation, and no rotation is asked for",
            fix="say in how many nights: --nights N",
        )
    if args.budget is None and args.nights is None and not args.history:
        return print_estimate(_drivers(args), as_json=args.json)
    # here, because an estimate must not wait for what only this needs
    from evenkeel.cli.budget_report import print_budget, print_history

    root = _root(args)
    declared = None
    if args.suite:
        words, listing = drivers_of.of_suite(args.suite, root)
        declared = listing.declared
    else:
        words = list(_drivers(args))
    if args.history and args.budget is None and args.nights is None:
        return print_history(args, root, words)
    return print_budget(args, root, words, declared)


def _root(args: argparse.Namespace) -> Path:
    root: Path = args.root or Repository.around(Path.cwd()).root
    return root


def _drivers(args: argparse.Namespace) -> Sequence[drivers_of.DriverWord]:
    if args.suite and args.drivers:
        raise InputError("both drivers and --suite are given", fix="name one of the two")
    if args.drivers:
        return drivers_of.find(args.drivers, args.root)
    if args.suite:
        return drivers_of.of_suite(args.suite, _root(args))[0]
    return drivers_of.all_below(_root(args))
