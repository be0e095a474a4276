"""``evenkeel launch``, and ``tools/launch``: from driver scripts to jobs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.cli.dry_run import print_estimate
from evenkeel.errors import EXIT_FINDING, EXIT_OK, InputError
from evenkeel.launch import drivers as drivers_of
from evenkeel.launch.options import Flags, dry_run_of, merge, snapshots_dir
from evenkeel.launch.request import DryRun, LaunchRequest
from evenkeel.run_paths import SUITES

if TYPE_CHECKING:
    from evenkeel.launch.launch_record import LaunchRecord
    from evenkeel.launch.profile import Profile

EPILOG = """\
examples:
  CONTAINER=img.sqsh ACCOUNT=me PARTITION=batch tools/launch ./llm/sft-llama3.2-1b-1n8g-fsdp2tp1.sh
  DRYRUN=1 tools/launch ./llm/*.sh          # GPU-hours of each and in total; touches nothing
  DRYRUN=2 tools/launch ./llm/*.sh          # makes snapshots and job scripts, submits nothing
  tools/launch --suite nightly --watch      # a whole night
  tools/launch --suite nightly --nights 5   # tonight's share of a suite that is above its budget
  tools/launch --suite nightly --resume     # go on with a night whose launcher died
  tools/launch --run my-cluster x.sh --script-arg policy.optimizer.lr=1e-4
                                            # a profile of env.toml; an argument for the driver

variables (each has a flag, which wins): CONTAINER ACCOUNT PARTITION MOUNTS EXTRA_ENV
  EXTRA_SCRIPT_ARGS HF_HOME HF_DATASETS_CACHE EXCLUDE_GRES SEGMENT_SIZE SLURM_JOB_SUFFIX
  CODE_SNAPSHOT_DIRNAME IS_RELEASE WATCH DRYRUN INCLUDE_DIRTY EVENKEEL_EXECUTOR EVENKEEL_SECRETS

variables named like secrets (…TOKEN…, …KEY…, …SECRET…, …PASSWORD…) reach the job through its
environment and are written nowhere.
"""


JOB_ARGUMENTS = (
    "account",
    "partition",
    "container",
    "mount",
    "env",
    "script_arg",
    "secret",
    "hf_home",
    "hf_datasets_cache",
    "exclude_gres",
    "exclude_node",
    "segment_size",
    "job_suffix",
    "release",
)
"""What ``add_job_arguments`` declares, but for --snapshot-dir, which says where jobs are kept."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a launch."""
    parser.epilog = EPILOG
    parser.add_argument("drivers", nargs="*", metavar="DRIVER", help="scripts, or names of recipes")
    what = parser.add_argument_group("what")
    what.add_argument("--suite", help="the drivers of a listing of tests/test_suites")
    what.add_argument(
        "--nights",
        type=int,
        metavar="N",
        help="tonight's share of the suite: each once in N nights",
    )
    what.add_argument(
        "--budget", metavar="HOURS", help="GPU-hours of a night, for --nights (default: declared)"
    )
    what.add_argument("--root", type=Path, help="the repository (default: around the drivers)")
    what.add_argument("--dry-run", action="store_true", help="GPU-hours only; touch nothing")
    what.add_argument("--prepare", action="store_true", help="snapshots and scripts, no jobs")
    what.add_argument("--json", action="store_true", help="the estimate of a dry run as JSON")
    what.add_argument("--resume", action="store_true", help="go on with an interrupted launch")
    what.add_argument("--fresh", action="store_true", help="start anew despite an interrupted one")
    what.add_argument(
        "--include-dirty", action="store_true", help="the snapshot holds uncommitted changes too"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--executor", choices=("slurm", "local"), help="default: slurm if present")
    profiles = where.add_mutually_exclusive_group()
    profiles.add_argument("--run", metavar="PROFILE", help="a profile of env.toml, and watch")
    profiles.add_argument("--batch", metavar="PROFILE", help="a profile of env.toml, and return")
    where.add_argument("--watch", action="store_true", help="follow the jobs to their verdicts")
    where.add_argument(
        "--confirm-budget",
        type=float,
        metavar="HOURS",
        help="with --watch: GPU-hours for confirming runs of results in doubt (default: declared"
        " by the suite, else a tenth of the launch's; 0: none)",
    )
    add_job_arguments(parser.add_argument_group("the jobs"))


def add_job_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare what is asked for with every job."""
    group.add_argument("--account")
    group.add_argument("--partition")
    group.add_argument("--container", help="image that the jobs run in")
    group.add_argument("--mount", action="append", default=[], metavar="SRC:DST")
    group.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]")
    group.add_argument("--script-arg", action="append", default=[], metavar="ARGUMENT")
    group.add_argument("--secret", action="append", default=[], metavar="NAME")
    group.add_argument("--hf-home", metavar="DIR")
    group.add_argument("--hf-datasets-cache", metavar="DIR")
    group.add_argument("--exclude-gres", action="store_true", help="do not ask for GPUs by --gres")
    group.add_argument("--exclude-node", action="append", default=[], metavar="NODE")
    group.add_argument("--segment-size", type=int, metavar="NODES")
    group.add_argument("--job-suffix", metavar="TEXT")
    group.add_argument("--release", action="store_true", help="as IS_RELEASE=1")
    group.add_argument("--snapshot-dir", metavar="DIR", help="instead of code_snapshots")


def run(args: argparse.Namespace) -> int:
    """Estimate, prepare or launch; the exit status of the CLI."""
    flags = _flags(args)
    words, max_minutes = _drivers(args)
    if dry_run_of(flags, os.environ) is DryRun.ESTIMATE:
        if args.run or args.batch:
            # only whether it can be read
            profile_of(args.run or args.batch, _root_without_git(words[0].path))
        return print_estimate(words, as_json=args.json)
    return _launch(args, flags, words, max_minutes)


def _launch(
    args: argparse.Namespace,
    flags: Flags,
    words: Sequence[drivers_of.DriverWord],
    max_minutes: int | None,
) -> int:
    # here, because an estimate must not wait for what only a launch needs
    from contextlib import nullcontext

    from evenkeel.launch import launcher
    from evenkeel.launch.plan import plan, report_lines

    drivers = drivers_of.require_files(words)
    request, secrets = _request(args, flags, drivers)
    request = replace(request, max_minutes=max_minutes)
    found = plan((word.word, word.path) for word in words)
    names = tuple(recipe.name for recipe in found.recipes)
    is_night = request.suite is not None and request.dry_run is DryRun.OFF
    with launcher.only_night(request.snapshots_dir, str(args.suite)) if is_night else nullcontext():
        record = None
        if request.dry_run is DryRun.OFF and request.resume:
            record = launcher.resumable(request, names)
        elif is_night and not request.fresh:
            _refuse_interrupted(launcher.interrupted(request, names))
        if record:
            say(f"[INFO]: going on with launch {record.launch_id} of {record.created}")
        else:
            if request.resume:
                say("[INFO]: no launch of these was interrupted, so this starts one")
            record = launcher.start(request, found, secrets, say)
        for line in report_lines(found):
            say(line)
        if request.dry_run is DryRun.PREPARE:
            return EXIT_OK
        status = launcher.submit(record, secrets, say)
        for submission in record.submissions():
            say(f"[INFO]: to run it once more: {launcher.shown_dir(submission)}/continue.sh")
        if request.watch:
            # a process of its own: this one has loaded nemo_run, and a night is long
            argv = [sys.executable, "-m", "evenkeel.cli.main", "watch", str(record.folder)]
            if args.confirm_budget is not None:
                argv += ["--confirm-budget", str(args.confirm_budget)]
            import subprocess  # an estimate does without it

            watched = subprocess.call(argv)
            # a driver that ended with a finding may have been confirmed since
            return watched if status == EXIT_FINDING else max(status, watched)
    return status


def _refuse_interrupted(record: LaunchRecord | None) -> None:
    if record is not None:
        raise InputError(
            f"launch {record.launch_id} of this suite was interrupted",
            path=record.folder,
            fix="--resume goes on with it and submits nothing twice; --fresh starts anew",
        )


def _request(
    args: argparse.Namespace, flags: Flags, drivers: tuple[Path, ...]
) -> tuple[LaunchRequest, Mapping[str, str]]:
    named = args.run or args.batch
    request, secrets = request_of(flags, drivers, named, args.snapshot_dir)
    request = replace(
        request,
        suite=args.suite,
        watch=request.watch and args.batch is None,
        resume=args.resume,
        fresh=args.fresh,
    )
    return request, secrets


def request_of(
    flags: Flags, drivers: tuple[Path, ...], profile_name: str | None, snapshot_dir: str | None
) -> tuple[LaunchRequest, Mapping[str, str]]:
    """What flags, variables and a profile ask for together, and the values of the secrets.

    Raises:
        InputError: one of them is wrong.
        MachineError: Slurm is asked for, and is not here.
    """
    from evenkeel.launch.git_code import toplevel_of

    root = toplevel_of(drivers[0].parent)
    profile = profile_of(profile_name, root)
    preparing = dry_run_of(flags, os.environ) is DryRun.PREPARE
    merged = merge(flags, os.environ, profile, needs_sbatch=not preparing)
    request = LaunchRequest(
        root=root,
        drivers=drivers,
        snapshots_dir=snapshots_dir(root, snapshot_dir, os.environ).absolute(),
        options=merged.options,
        dry_run=merged.dry_run,
        watch=merged.watch,
        include_dirty=merged.include_dirty,
        max_nodes=profile.nodes if profile else None,
        max_gpus_per_node=profile.gpus_per_node if profile else None,
    )
    return request, merged.secret_values


def profile_of(named: str | None, root: Path) -> Profile | None:
    """The profile of this name; None where none is named.

    Raises:
        InputError: there is none of that name, or it cannot be read.
    """
    if not named:
        return None
    from evenkeel.launch import profile as profiles

    return profiles.load(profiles.find_file(root), named)


def _root_without_git(driver: str) -> Path:
    """The repository around ``driver``: an estimate starts no process, and needs no git."""
    above = Path(driver).resolve().parents
    found = (folder for mark in (".git", SUITES) for folder in above if (folder / mark).exists())
    return next(found, above[0])


def say(line: str) -> None:
    """What is asked for goes to stdout, warnings and errors to stderr."""
    to = sys.stdout if line.startswith("[INFO]") else sys.stderr
    print(line, file=to, flush=True)


def _drivers(args: argparse.Namespace) -> tuple[Sequence[drivers_of.DriverWord], int | None]:
    """(the drivers, the longest job that their suite allows)."""
    if args.suite and args.drivers:
        raise InputError("both drivers and --suite are given", fix="name one of the two")
    if args.budget is not None and args.nights is None:
        raise InputError(
            "--budget says how much of a rotation runs tonight",
            fix="add --nights N; evenkeel plan --budget says how many nights it takes",
        )
    if args.suite:
        words, listing = drivers_of.of_suite(args.suite, args.root)
        if listing.is_disabled:
            raise InputError(
                "this listing parks drivers; no night launches them",
                path=listing.path,
                fix="evenkeel plan --suite estimates them; launch one by its path",
            )
        if args.nights is not None:
            from evenkeel.cli.budget_report import tonight

            root = listing.path.parents[len(SUITES.parts)]
            words = tonight(args, root, words, listing.declared)
        return words, listing.declared.max_minutes
    if args.nights is not None:
        raise InputError("a rotation is one of a suite", fix="name it with --suite")
    if not args.drivers:
        raise InputError(
            "no driver to launch", fix="name driver scripts, or a listing with --suite nightly"
        )
    return drivers_of.find(args.drivers, args.root), None


def _flags(args: argparse.Namespace) -> Flags:
    watch = args.watch or args.run is not None
    return replace(job_flags(args), dry_run=args.dry_run, prepare=args.prepare, watch=watch)


def job_flags(args: argparse.Namespace) -> Flags:
    """What was typed of the options that hold for jobs, ``--executor`` and ``--include-dirty``."""
    return Flags(
        include_dirty=args.include_dirty,
        executor=args.executor,
        account=args.account,
        partition=args.partition,
        container=args.container,
        mounts=args.mount,
        env=args.env,
        script_args=args.script_arg,
        hf_home=args.hf_home,
        hf_datasets_cache=args.hf_datasets_cache,
        exclude_gres=args.exclude_gres,
        segment_size=args.segment_size,
        job_suffix=args.job_suffix,
        release=args.release,
        exclude_nodes=args.exclude_node,
        secrets=args.secret,
    )
