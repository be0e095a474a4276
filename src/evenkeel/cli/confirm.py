"""``evenkeel confirm``: train a run in doubt again with another seed, and judge both together."""

from __future__ import annotations

import argparse
from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.run_paths import Repository, RunPaths

EPILOG = """\
examples:
  evenkeel confirm tests/test_suites/llm/NAME           # one confirming run, in NAME.confirm1
  evenkeel confirm tests/test_suites/llm/NAME --runs 2  # and a second one, if it is still in doubt
  evenkeel confirm /results/NAME --driver tests/test_suites/llm/NAME.sh policy.optimizer.lr=1e-4

It trains here, like the driver does when it is called by hand. A run that is not in doubt is not
trained again. What was interrupted goes on with the same call.

exit status: that of the verdict over all runs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``evenkeel confirm``."""
    parser.epilog = EPILOG
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="a run whose verdict is in doubt")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE",
                        help="those that the run was trained with")  # fmt: skip
    parser.add_argument("--runs", type=int, choices=(1, 2), default=1,
                        help="confirming runs, at most (default 1)")  # fmt: skip
    parser.add_argument("--driver", type=Path, help="its driver (default: beside the run)")


def run(args: argparse.Namespace) -> int:
    """Train and judge until the evidence decides, or ``--runs`` are done."""
    from evenkeel.convergence import judgement, second_look
    from evenkeel.convergence.error_budget import MAX_LOOKS
    from evenkeel.convergence.verdict import Verdict
    from evenkeel.launch import baseline_runs, confirmation
    from evenkeel.report import terminal

    paths = RunPaths(args.run.resolve())
    kept = judgement.read(paths)
    if kept is None:
        raise InputError(
            "the run was never judged" if paths.root.is_dir() else "no such run",
            path=paths.root,
            fix="name the directory of a judged run, which has a verdict.json",
        )
    verdict = Verdict(kept["verdict"])
    first = second_look.wanted_confirmation(paths)
    if first is None:
        print(f"{verdict.value} {paths.name}: {kept['message']}; it asks for no confirming run")
        return verdict.exit_code
    driver, repository = _driver(args, paths, str(kept["recipe"]))
    for number in range(first, min(first + args.runs, MAX_LOOKS)):
        seed = confirmation.seed_of(number, second_look.seeds_of(paths))
        again = paths.confirming(number)
        what = f"confirming run {number}, seed {seed}"
        baseline_runs.train(driver, (*args.overrides, f"seed={seed}"), again, what)
        judged = second_look.judge_again(paths, repository)
        verdict = judged.verdict
        terminal.print_judgement(judged, paths.name)
        if second_look.wanted_confirmation(paths) != number + 1:
            break
    return verdict.exit_code


def _driver(args: argparse.Namespace, paths: RunPaths, recipe: str) -> tuple[Path, Repository]:
    """The driver, and the repository whose baselines judge its runs."""
    driver = args.driver or paths.root.with_name(f"{recipe}.sh")
    if not driver.is_file():
        raise InputError(
            "no such driver", path=driver, fix=f"name that of {recipe} with --driver FILE"
        )
    return driver.resolve(), Repository.around(driver.resolve().parent)
