"""``evenkeel equivalence``: do recipes of other layouts and backends train the same curve?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError

EPILOG = """\
examples:
  evenkeel equivalence runs/fsdp2tp1 runs/fsdp2tp2 runs/megatrontp2 --tolerance 0.02
  evenkeel equivalence --groups tests/test_suites/equivalence.yaml

A group is 'name: {members: [recipe, recipe, …], tolerance: 0.02, metrics: [train/loss]}'; the
first member is the reference. Runs are looked for below the folder of FILE (beside the drivers),
or below --results.

exit status: 0 all curves are within the tolerance; 1 one is not, or is missing; 2 bad input
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evenkeel equivalence``."""
    parser.epilog = EPILOG
    parser.add_argument("runs", nargs="*", type=Path, metavar="METRICS|RUN_DIR")
    parser.add_argument("--tolerance", type=float, default=0.02, metavar="SHARE",
                        help="largest relative distance of a block (default 0.02)")  # fmt: skip
    parser.add_argument("--metric", action="append", default=[], metavar="NAME",
                        help="curves to compare (default train/loss)")  # fmt: skip
    parser.add_argument("--groups", type=Path, metavar="FILE", help="groups of recipes in YAML")
    parser.add_argument("--results", type=Path, metavar="DIR",
                        help="where the runs lie (default: beside FILE)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare and list; any finding but PASS exits 1."""
    from evenkeel.convergence import equivalence
    from evenkeel.convergence.run_evidence import read_evidence
    from evenkeel.convergence.verdict import Verdict
    from evenkeel.report.terminal import print_lines

    if bool(args.runs) == bool(args.groups):
        raise InputError("give either two or more runs, or --groups FILE")
    if args.runs:
        if len(args.runs) < 2:
            raise InputError("one run has nothing to be compared with", fix="give two or more")
        metrics = tuple(args.metric) or equivalence.DEFAULT_METRICS
        names = tuple(map(str, args.runs))
        groups = [equivalence.Group("these", names, args.tolerance, metrics)]
        places = dict(zip(names, args.runs, strict=True))
    else:
        groups = equivalence.read_groups(args.groups)
        places = _places(groups, args.results or args.groups.parent)
    runs = {name: read_evidence(place).metrics for name, place in places.items()}
    found = [(group.name, one) for group in groups
             for one in equivalence.compare_group(group, runs)]  # fmt: skip
    if args.json:
        print(json.dumps([{"group": name, **vars(one)} for name, one in found]))
    else:
        print_lines((one.verdict, f"{name}: {one.member} {one.metric}: {one.message}")
                    for name, one in found)  # fmt: skip
    good = all(one.verdict is Verdict.PASS for _, one in found)
    return EXIT_OK if good else EXIT_FINDING


def _places(groups: object, root: Path) -> dict[str, Path]:
    """The result directories below ``root`` that are named like a member."""
    from evenkeel.convergence.equivalence import Group

    assert isinstance(groups, list)
    wanted = {member for group in groups if isinstance(group, Group) for member in group.members}
    return {path.parent.name: path.parent for path in sorted(root.rglob("metrics.json"))
            if path.parent.name in wanted}  # fmt: skip
