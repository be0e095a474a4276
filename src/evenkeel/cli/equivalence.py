"""``evenkeel equivalence``: do recipes of other layouts and backends train the same curve?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError

if TYPE_CHECKING:
    from evenkeel.convergence.equivalence import Pair

EPILOG = """\
examples:
  evenkeel equivalence --suite nightly_cpu          # the groups that its recipes declare
  evenkeel equivalence --launch 20260102-030405-1a2b3c
  evenkeel equivalence runs/fsdp2tp1 runs/fsdp2tp2 runs/megatrontp2 --tolerance 0.02
  evenkeel equivalence --groups groups.yaml

A recipe declares 'equivalence: {group: NAME, tolerance: 0.02, metrics: [train/loss]}'; the first
member in the suite (or launch) is the reference, and each other member is held to its own
tolerance. Its runs lie beside the drivers, or below --results in folders of the recipes' names.
A file of groups says 'NAME: {members: [recipe, recipe, …], tolerance: 0.02, metrics: […]}'.

exit status: 0 all curves are within the tolerance; 1 one is not, or is missing; 2 bad input
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evenkeel equivalence``."""
    parser.epilog = EPILOG
    parser.add_argument("runs", nargs="*", type=Path, metavar="METRICS|RUN_DIR")
    parser.add_argument("--suite", metavar="NAME", help="groups of the recipes of a listing")
    parser.add_argument("--launch", metavar="ID", help="those of a launch: its id, or its folder")
    parser.add_argument("--groups", type=Path, metavar="FILE", help="groups of recipes in YAML")
    parser.add_argument("--results", type=Path, metavar="DIR",
                        help="with --suite or --groups: where the runs lie (default: beside"
                        " the drivers, or beside FILE)")  # fmt: skip
    parser.add_argument("--root", type=Path, help="the repository (default: around you)")
    parser.add_argument("--tolerance", type=float, default=0.02, metavar="SHARE",
                        help="of the runs named: largest relative distance of a block"
                        " (default 0.02)")  # fmt: skip
    parser.add_argument("--metric", action="append", default=[], metavar="NAME",
                        help="of the runs named: curves to compare (default"
                        " train/loss)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare and list; any finding but PASS exits 1."""
    from evenkeel.convergence.equivalence import compare_pairs
    from evenkeel.convergence.verdict import Verdict
    from evenkeel.report.equivalence_result import read_runs
    from evenkeel.report.terminal import print_lines

    if sum(map(bool, (args.runs, args.groups, args.suite, args.launch))) != 1:
        raise InputError("give one of: two or more runs, --suite, --launch, --groups")
    pairs, places = _pairs_of_runs(args) if args.runs else _pairs_of_groups(args)
    if not pairs:
        raise InputError(
            "no two recipes here are of one equivalence group",
            fix="declare 'equivalence: {group: NAME}' in each of them",
        )
    found = compare_pairs(pairs, read_runs(pairs, places))
    if args.json:
        print(json.dumps([one.to_json() for one in found]))
    else:
        print_lines((one.verdict, f"{one.group}: {one.member} {one.metric}: {one.message}")
                    for one in found)  # fmt: skip
    return EXIT_OK if all(one.verdict is Verdict.PASS for one in found) else EXIT_FINDING


def _pairs_of_runs(args: argparse.Namespace) -> tuple[list[Pair], dict[str, Path]]:
    """The first run with each of the others."""
    from evenkeel.convergence.equivalence import DEFAULT_METRICS, Pair

    if len(args.runs) < 2:
        raise InputError("one run has nothing to be compared with", fix="give two or more")
    missing = [path for path in args.runs if not path.exists()]
    if missing:
        raise InputError("no such run", path=missing[0])
    reference, *others = map(str, args.runs)
    metrics = tuple(args.metric) or DEFAULT_METRICS
    pairs = [Pair("these", reference, other, args.tolerance, metrics) for other in others]
    return pairs, {str(path): path for path in args.runs}


def _pairs_of_groups(args: argparse.Namespace) -> tuple[list[Pair], dict[str, Path]]:
    """The groups that are asked for, and where the runs of their members lie."""
    from evenkeel.convergence import equivalence
    from evenkeel.report.equivalence_result import of_launch, of_suite
    from evenkeel.run_paths import Repository

    if args.launch:
        from evenkeel.cli.watch import find_launch

        return of_launch(find_launch(args.launch, args.root, None))
    if args.suite:
        repository = Repository(args.root) if args.root else Repository.around(Path.cwd())
        pairs, places = of_suite(repository, args.suite)
        return pairs, _named_below(args.results) if args.results else places
    pairs = equivalence.read_groups(args.groups)
    return pairs, _named_below(args.results or args.groups.parent)


def _named_below(root: Path) -> dict[str, Path]:
    """The result directories below ``root`` by their names.

    Raises:
        InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError("no such folder of results", path=root)
    return {path.parent.name: path.parent for path in sorted(root.rglob("metrics.json"))}
