"""``evenkeel seams``: does a continued run show where it was continued?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError

EPILOG = """\
examples:
  evenkeel seams tests/test_suites/llm/NAME
  evenkeel seams first.json second.json third.json

A seam is a step that is missing between two starts of the trainer, a repeated step that came out
differently, or a jump at the boundary beyond what the curve does elsewhere.

exit status: 0 no seam; 1 a seam; 2 bad input
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evenkeel seams``."""
    parser.epilog = EPILOG
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR|LOG_DIR|METRICS",
                        help="a run, or the metrics of each of its starts in order")  # fmt: skip
    parser.add_argument("--tolerance", type=float, default=1e-3, metavar="SHARE",
                        help="how far repeated steps may be apart (default 0.001)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the seams as JSON")


def run(args: argparse.Namespace) -> int:
    """Find and list."""
    from evenkeel.convergence import seams
    from evenkeel.convergence.verdict import Verdict
    from evenkeel.report.terminal import print_lines

    segments = _segments(args.runs)
    found = seams.find_seams(segments, args.tolerance)
    if args.json:
        print(json.dumps([one.to_json() for one in found]))
    elif found:
        print_lines(
            (Verdict.REGRESSED, f"{one.metric}: {one.kind} at step {one.step}: {one.message}")
            for one in found
        )
    else:
        several = len(segments) > 1
        print(f"no seam in {len(segments)} starts" if several else "no seam: only one start")
    return EXIT_FINDING if found else EXIT_OK


def _segments(places: list[Path]) -> list[dict[str, dict[int, float]]]:
    """Metric → step → value of each start, in order."""
    from evenkeel.metrics import collection, series

    if len(places) > 1 or places[0].is_file():
        return [series.load(path) for path in places]
    if not places[0].exists():
        raise InputError(
            "no such run",
            path=places[0],
            fix="name a run's directory, its logs, or the metrics of each of its starts",
        )
    log_dir = places[0] / "logs" if (places[0] / "logs").is_dir() else places[0]
    return collection.read_starts(log_dir)
