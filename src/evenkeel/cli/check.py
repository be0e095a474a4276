"""``evenkeel check``: judge a run's metrics by checks written on the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evenkeel.convergence import judgement
from evenkeel.errors import InputError
from evenkeel.metrics.parser import FUNCTIONS
from evenkeel.run_paths import RunPaths

EPILOG = f"""\
examples:
  evenkeel check metrics.json 'data["train/loss"]["100"] < 0.82'
  evenkeel check metrics.json 'mean(data["train/loss"], -10, 0) < 0.58' \\
                              'max(data["train/grad_norm"]) < 25'
  evenkeel check runs/fsdp2tp1 --max-steps 100 'min(data["validation/accuracy"], 90) > 0.95'

A check compares numbers: data["METRIC"]["STEP"], or a summary of a metric over a range of steps,
mean(data["METRIC"], START, END, ignore_top_p=0.05), with + - * / // % **, comparisons and chains of
them, and, or, not. Functions: {", ".join(FUNCTIONS)}.
A range holds START and not END. With N the last step of the metric, a negative bound b is
step N + 1 + b, and an end of 0 is N + 1: (-10, 0) are the last ten steps.
A NaN or infinity among the values that a check reads makes it fail, however it is compared.

exit status: 0 every check passed; 1 one did not; 2 no such file, or a text that is no check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evenkeel check``."""
    parser.epilog = EPILOG
    parser.add_argument(
        "metrics", type=Path, metavar="METRICS", help="a metrics.json, or a run's directory"
    )
    parser.add_argument("checks", nargs="+", metavar="EXPR", help="a check; quote it for the shell")
    parser.add_argument(
        "--max-steps",
        type=int,
        metavar="N",
        help="a run that ended before step N is INCOMPLETE (default: of a run's directory, as far "
        "as its run.json says)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Judge and show; the verdict gives the exit status."""
    path: Path = args.metrics
    if args.max_steps is not None and args.max_steps < 1:
        raise InputError(f"--max-steps is {args.max_steps}, not a positive number of steps")
    if path.is_dir():
        paths = RunPaths(path.resolve())
        if not paths.metrics.exists() and not paths.run_json.exists():
            raise InputError(
                f"neither {paths.metrics.name} nor {paths.run_json.name} in this directory",
                path=path,
                fix="name a run's directory or a metrics.json",
            )
        judged = judgement.judge_run(paths, args.checks, args.max_steps)
    else:
        judged = judgement.judge_metrics(path, args.checks, args.max_steps)
    if args.json:
        print(json.dumps(judgement.as_json(judged)))
    else:
        from evenkeel.report.terminal import print_judgement

        print_judgement(judged, str(path))
    return judged.verdict.exit_code
