"""``evenkeel compare``: judge a run by the runs of a baseline."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from evenkeel.errors import InputError

EPILOG = """\
examples:
  evenkeel compare metrics.json --baseline baseline.json
  evenkeel compare runs/new --baseline tests/baselines/llm/NAME/cpu.json --json
  evenkeel compare new.json confirm1.json confirm2.json --baseline baseline.json
  evenkeel compare metrics.json --baseline baseline.json --pool tests/baselines

A result between clear pass and clear fail is INCONCLUSIVE: run the same code once more and give
that run as a second argument (and, if it is still open, a third). The promised rate of false
alarms holds over all looks together; --looks 1 decides at once.

The baseline is a file of 'evenkeel baseline record', or several metrics.json of healthy runs.

exit status: 0 PASS or IMPROVED; 1 any other verdict; 2 bad input
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evenkeel compare``."""
    parser.epilog = EPILOG
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="METRICS|RUN_DIR",
        help="the run to judge, then confirming runs",
    )
    parser.add_argument(
        "--baseline",
        nargs="+",
        required=True,
        metavar="BASELINE",
        help="a baseline file, the name of a recipe that has one, or metrics files of healthy runs",
    )
    parser.add_argument(
        "--pool",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="baselines of similar recipes, from which to learn how much runs usually vary",
    )
    add_budget_arguments(parser)
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="judge only these metrics"
    )
    parser.add_argument(
        "--direction",
        action="append",
        default=[],
        metavar="NAME=SIDE",
        help="which side of a metric is good: lower, higher, both (no change), exact",
    )
    parser.add_argument("--all", action="store_true", help="show the metrics that passed, too")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_budget_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say how many false alarms are allowed."""
    parser.add_argument(
        "--family-error",
        type=float,
        default=0.01,
        metavar="P",
        help="chance of any false alarm in a night of healthy runs (default 0.01)",
    )
    parser.add_argument(
        "--recipes",
        type=int,
        default=1,
        metavar="N",
        help="recipes judged in that night, which share the chance (default 1)",
    )
    parser.add_argument(
        "--looks",
        type=int,
        default=3,
        metavar="N",
        help="runs that may be looked at before deciding, 1 to 3 (default 3)",
    )


def run(args: argparse.Namespace) -> int:
    """Compare and show; the verdict gives the exit status."""
    from evenkeel.convergence import baseline_files, baseline_judgement
    from evenkeel.convergence.comparison import Options
    from evenkeel.convergence.error_budget import Budget
    from evenkeel.convergence.run_evidence import read_evidence

    budget = Budget(args.family_error, args.recipes, args.looks)
    if len(args.runs) > args.looks:
        raise InputError(
            f"{len(args.runs)} runs, but --looks {args.looks}",
            fix="at most three runs are combined: the run to judge and two confirming ones",
        )
    evidence = [read_evidence(path) for path in args.runs]
    paths = [Path(given) for given in args.baseline]
    if len(paths) == 1:
        paths = [baseline_files.find(args.baseline[0])]
    baseline = baseline_judgement.read_baseline(paths)
    given = baseline_judgement.parse_directions(args.direction, baseline.curves)
    baseline_judgement.refuse_unknown(args.metric, baseline.curves)
    options = Options(
        budget=budget,
        directions={**baseline.directions, **given},
        priors=baseline_judgement.pooled_priors(args.pool, baseline),
        only=tuple(args.metric),
        with_advice=not args.json,
    )
    comparison = baseline_judgement.compare_evidence(baseline, evidence, options)
    if args.json:
        print(json.dumps(comparison.to_json()))
    else:
        from evenkeel.report.comparison_text import print_comparison

        print_comparison(comparison, str(args.runs[0]), everything=args.all)
        if comparison.asks_for_confirmation:
            runs = " ".join(map(str, args.runs))
            print(f"run it once more and give both: evenkeel compare {runs} CONFIRMING …")
    sys.stdout.flush()
    return comparison.verdict.exit_code
