"""``evenkeel baseline record``: from runs, trained for it or at hand, to a baseline file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.cli import launch
from evenkeel.errors import EXIT_OK, InputError
from evenkeel.launch.request import Recording
from evenkeel.run_paths import Repository

if TYPE_CHECKING:
    from evenkeel.convergence.baseline import Baseline

TEXT = """\
Make a baseline, either of the recipe NAME, which is trained with several seeds (its own first) and
a numeric twin, or with --from of runs that are at hand. NAME is trained here, one run after the
other, or with --executor slurm as jobs, all at once and from one snapshot of the code. Trainings
that are finished are kept: an interrupted call goes on where it stopped, the same way here, and
with --launch on Slurm.

examples:
  evenkeel baseline record sft-llama-0.9m-1n1g-fsdp2tp1 --runs 5
  evenkeel baseline record sft-llama-0.9m-1n1g-fsdp2tp1 --executor slurm --profile my-cluster
  evenkeel baseline record sft-llama-0.9m-1n1g-fsdp2tp1 --launch 20260102-030405-1a2b3c
  evenkeel baseline record --from m1.json m2.json m3.json --output baseline.json
  evenkeel baseline record --from runs/a runs/b runs/c --output B.json --without 'timing/*'
  evenkeel baseline record --from m1.json m2.json --output B.json --direction answer/length=both

Without --output a recipe's file goes to tests/baselines/{llm,vlm}/<recipe>/<platform>.json.
On Slurm, flags outweigh the variables of tools/launch (ACCOUNT, PARTITION, CONTAINER, EXTRA_ENV,
...), and these a profile. The runs are followed as 'evenkeel watch' does it. Ctrl-C ends that, not
the jobs; --launch goes on: it submits what is missing, runs that a larger --runs adds, and further
jobs of a run that ended before its last step.

exit status: 0 written, also with warnings; 1 a training did not finish; 2 bad input; 3 the machine
             or the cluster failed; 130 interrupted
"""

# what is said when the jobs are launched, and of whoever follows them
_OF_JOBS = ("profile", "include_dirty", *launch.JOB_ARGUMENTS)
_OF_FOLLOWING = ("snapshot_dir", "dry_run", "poll_s", "retries", "hang_minutes")


def add_arguments(record: argparse.ArgumentParser) -> None:
    """Declare the options of the action, but for those that others have, too."""
    record.add_argument("name", nargs="?", metavar="NAME", help="a recipe, whose driver is run")
    record.add_argument("--runs", type=int, metavar="K",
                        help="seeds, its own first (default 5)")  # fmt: skip
    record.add_argument("--twins", type=int, metavar="N",
                        help="numeric twins of its own seed (default 1)")  # fmt: skip
    record.add_argument("--from", nargs="+", type=Path, dest="sources", metavar="RUN",
                        help="metrics files or run directories instead of training")  # fmt: skip
    record.add_argument("--output", type=Path, metavar="FILE", help="where to write it")
    record.add_argument("--evidence", type=Path, metavar="DIR",
                        help="where runs of NAME are kept that are trained here")  # fmt: skip
    record.add_argument("--direction", action="append", default=[], metavar="NAME=SIDE",
                        help="good side of a metric: lower, higher, both, exact")  # fmt: skip
    record.add_argument("--without", action="append", default=[], metavar="PATTERN",
                        help="leave metrics out, 'timing/*' for one")  # fmt: skip
    record.add_argument("--exact", action="store_true", help="write values with all digits")
    record.add_argument("--bit-exact", action="store_true",
                        help="a bit difference on the same numerics is a regression")  # fmt: skip
    record.add_argument("--force", action="store_true", help="replace an existing file")
    _add_cluster(record.add_argument_group("on Slurm"))


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--executor", choices=("slurm", "local"), help="default: local")
    group.add_argument("--launch", metavar="LAUNCH",
                       help="go on with an earlier one, by its id or folder; --runs and --twins"
                       " are as they were where they are not said")  # fmt: skip
    group.add_argument("--profile", metavar="PROFILE", help="of env.toml")
    group.add_argument("--dry-run", action="store_true", help="GPU-hours only; touch nothing")
    group.add_argument("--include-dirty", action="store_true",
                       help="the snapshot holds uncommitted changes too")  # fmt: skip
    group.add_argument("--poll-s", type=float, metavar="S", help="between two looks; default: 15")
    group.add_argument("--retries", type=int, metavar="N",
                       help="of failures of the cluster; default: 2")  # fmt: skip
    group.add_argument("--hang-minutes", type=float, metavar="M",
                       help="end a run that logs no step for M; default: 30; 0: never")  # fmt: skip
    launch.add_job_arguments(group)


def run(args: argparse.Namespace) -> int:
    """Train or take the runs, and write the file."""
    if bool(args.name) == bool(args.sources):
        raise InputError(
            "give either the NAME of a recipe to train, or --from with runs at hand",
            fix="evenkeel baseline record --from m1.json m2.json --output baseline.json",
        )
    _refuse_mixed(args)
    if args.direction:
        from evenkeel.convergence import baseline_judgement

        baseline_judgement.sides_of(args.direction)  # which metrics there are the runs tell
    if args.output is not None:
        _refuse_existing(args.output, args.force)
    sources = args.sources or _train(args)
    return EXIT_OK if sources is None else _write(args, sources)


def _refuse_mixed(args: argparse.Namespace) -> None:
    """Raise for options that say nothing in the way in which the runs are made."""
    on_slurm = args.executor == "slurm" or args.launch is not None
    given = [name for name in (*_OF_JOBS, *_OF_FOLLOWING) if _is_given(getattr(args, name))]
    of_jobs = [name for name in given if name in _OF_JOBS]
    if args.sources and (on_slurm or given):
        named = "launch" if args.launch is not None else given[0] if given else "executor"
        raise InputError(
            f"{_flag(named)} is for runs that are trained, and --from takes some that are at hand",
            fix="leave one of the two out",
        )
    if args.launch is not None and args.executor == "local":
        raise InputError(
            "--launch goes on with jobs on Slurm, and the executor is local",
            fix="leave --executor out",
        )
    if args.launch is not None and of_jobs:
        raise InputError(
            f"{_flag(of_jobs[0])} is said when jobs are launched, and {args.launch} was before",
            fix="leave it out, or launch anew with --executor slurm instead of --launch",
        )
    if on_slurm and args.evidence is not None:
        raise InputError(
            "--evidence says where runs are kept that are trained here",
            fix="leave it out: those of jobs are kept in their snapshot",
        )
    if given and not on_slurm:
        raise InputError(
            f"{_flag(given[0])} is for jobs, and the runs are trained here, one after the other",
            fix="add --executor slurm, or leave it out",
        )


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != []


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _refuse_existing(path: Path, force: bool) -> None:
    if path.is_dir():
        raise InputError(
            "a folder, where a file is wanted", path=path, fix=f"--output {path}/B.json"
        )
    if path.exists() and not force:
        raise InputError(
            "this baseline exists already",
            path=path,
            fix="'baseline add' or 'baseline accept' keeps its history; --force replaces it",
        )


def _train(args: argparse.Namespace) -> list[Path] | None:
    """The directories of the trained runs; None where only an estimate was asked for."""
    repository = Repository.around(args.root or Path.cwd())
    if args.executor != "slurm" and args.launch is None:
        from evenkeel.launch import baseline_runs

        driver = repository.find_driver(args.name)
        wanted = _wanted(args)
        return baseline_runs.record(driver, wanted.runs, args.evidence, num_twins=wanted.twins)
    from evenkeel.cli import baseline_jobs

    if args.output is None and not args.force:
        _refuse_recorded(repository, args.name)
    if args.launch is not None:
        return baseline_jobs.pick_up(args)
    driver = repository.find_driver(args.name)
    _refuse_overrides(args.script_arg, repository.recipe(driver.parent.name, driver.stem))
    return baseline_jobs.train(args, _wanted(args), driver)


def _refuse_overrides(given: Sequence[str], recipe: Path) -> None:
    """Raise for what would end every job, or make another run of each than it is called.

    Raises:
        InputError: the recipe has no such key or takes no such value, or the key is the
            recorder's own.
    """
    from evenkeel.recipes import config
    from evenkeel.recipes.overrides import parse_override

    if not recipe.exists():
        return  # a driver of another trainer, whose arguments nobody here knows
    for text in given:
        key = parse_override(text).dotted
        if key in ("seed", "policy.numeric_twin"):
            raise InputError(
                f"--script-arg {text}: each run of a baseline has its own {key}",
                fix="leave it out, or set it in the recipe",
            )
    config.load(recipe, given)


def _wanted(args: argparse.Namespace) -> Recording:
    runs, twins = (5 if args.runs is None else args.runs), (1 if args.twins is None else args.twins)
    return Recording(runs, twins)


def _refuse_recorded(repository: Repository, name: str) -> None:
    """Jobs tell only when they have run on which platform they did, so any baseline may be theirs.

    Raises:
        InputError: the recipe has one.
    """
    from evenkeel.convergence import baseline_files

    found = baseline_files.of_recipe(repository, name)
    if found:
        raise InputError(
            "this recipe has a baseline already",
            path=found[0],
            fix="'baseline add' or 'baseline accept' keeps its history; --force replaces it if the"
            " jobs run on its platform; --output FILE is for the one of another platform",
        )


def _write(args: argparse.Namespace, sources: Sequence[Path]) -> int:
    from evenkeel.convergence import baseline as files
    from evenkeel.convergence import baseline_files, baseline_judgement, baseline_recording
    from evenkeel.convergence.run_evidence import read_evidence

    evidence = [read_evidence(path).without(args.without) for path in sources]
    recipe = args.name or str(evidence[0].record.get("recipe") or "")
    made = baseline_recording.of_evidence(
        evidence,
        recipe=recipe,
        accepted=baseline_files.acceptance(args.by, args.reason),
        exact=args.exact or args.bit_exact,
        bit_exact=args.bit_exact,
    )
    given = baseline_judgement.parse_directions(args.direction, made.curves)
    made = baseline_files.with_directions(made, given)
    path = args.output or baseline_files.standard_path(made, args.root)
    _refuse_existing(path, args.force)
    files.save(made, path)
    idle = _idle_patterns(args.without, sources)
    warn([*idle, *baseline_recording.left_out(evidence, made), *baseline_files.doubts(made)])
    say(f"recorded {held(made)} in {path}")
    return EXIT_OK


def _idle_patterns(patterns: Sequence[str], sources: Sequence[Path]) -> list[str]:
    """Of each pattern that leaves no metric out, that it does not."""
    from fnmatch import fnmatchcase

    from evenkeel.convergence.run_evidence import read_evidence

    names = {name for path in sources for name in read_evidence(path).metrics} if patterns else ()
    return [
        f"--without {pattern!r} fits no metric; there are: {', '.join(sorted(names))}"
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in names)
    ]


def warn(doubts: Sequence[str]) -> None:
    """What a person should look at before trusting a baseline."""
    for doubt in doubts:
        print(f"[WARNING] {doubt}", file=sys.stderr)


def held(made: Baseline) -> str:
    """How much is in it, in words."""
    counts = {"run": len(made.runs), "metric": len(made.curves)}
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())


def say(text: str) -> None:
    """A line about what was done."""
    print(f"[INFO] {text}")
