"""``evenkeel baseline record`` on Slurm: launch the runs, or pick a launch up, and follow them."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evenkeel.cli import launch
from evenkeel.cli.watch import find_launch
from evenkeel.errors import EvenkeelError, InputError
from evenkeel.launch import baseline_jobs, continuation, launcher
from evenkeel.launch.baseline_runs import is_finished, planned_runs
from evenkeel.launch.chain_outcome import RetryPolicy
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.git_code import toplevel_of
from evenkeel.launch.intervention import Intervention
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.options import Flags, dry_run_of
from evenkeel.launch.plan import gpu_minutes, plan, rounded_hours, shape_of
from evenkeel.launch.recipe_watch import Row
from evenkeel.launch.request import DryRun, JobShape, Recording, Submission
from evenkeel.launch.run_progress import DoomPolicy
from evenkeel.launch.secrets import secrets_in
from evenkeel.launch.watch import Watcher, WatchPolicy
from evenkeel.recipes import config_block


def train(args: argparse.Namespace, wanted: Recording, driver: Path) -> list[Path] | None:
    """Launch the runs and follow them to their ends; their directories, or None in a dry run.

    Raises:
        InputError: the launch is refused; nothing is submitted.
        EvenkeelError: a run did not come to its end.
        MachineError: the cluster failed.
    """
    planned = planned_runs(wanted.runs, wanted.twins)
    if _is_dry(args):
        launch.profile_of(args.profile, toplevel_of(driver.parent))  # only whether it can be read
        shape = shape_of(config_block.read(driver))
        launch.say(_estimate(args.name, len(planned), len(planned) * shape.num_runs, shape))
        return None
    flags = launch.job_flags(args)
    request, secrets = launch.request_of(flags, (driver,), args.profile, args.snapshot_dir)
    found = plan([(args.name, str(driver))])
    record = launcher.start(replace(request, recording=wanted), found, secrets, launch.say)
    launch.say(f"[INFO]: should this end before its jobs, go on with: {_again(args, record)}")
    return _follow_through(args, record, wanted, secrets)


def pick_up(args: argparse.Namespace) -> list[Path] | None:
    """Go on with the launch of ``--launch``; otherwise as ``train``."""
    record = find_launch(args.launch, args.root, args.snapshot_dir)
    record.recipe(args.name)  # whether it is one of this launch
    made_with = record.recording or Recording(0, 0)
    wanted = Recording(
        made_with.runs if args.runs is None else args.runs,
        made_with.twins if args.twins is None else args.twins,
    )
    secrets = secrets_in(os.environ, record.options.secret_names)
    return _follow_through(args, record, wanted, secrets)


def _is_dry(args: argparse.Namespace) -> bool:
    """Whether only the estimate is asked for, by ``--dry-run`` or ``DRYRUN=1``."""
    asked = dry_run_of(Flags(dry_run=args.dry_run), os.environ)
    if asked is DryRun.PREPARE:
        raise InputError(
            "DRYRUN=2 prepares launches of drivers, not of a baseline's runs",
            fix="DRYRUN=1 or --dry-run shows what they may take; leave DRYRUN out to record",
        )
    return asked is DryRun.ESTIMATE


def _follow_through(
    args: argparse.Namespace, record: LaunchRecord, wanted: Recording, secrets: Mapping[str, str]
) -> list[Path] | None:
    """Submit what is not submitted, follow all to the end, and see that all are finished."""
    try:
        runs = baseline_jobs.runs_of(record, wanted)
        chains = baseline_jobs.chains_to_follow(runs, Cluster())
        if not _submit(args, record, chains, secrets):
            return None
        followed = {chain.label for chain in chains}
        for run in runs:
            if run.label not in followed:
                launch.say(f"[INFO]: {run.label}: done before")
        # a job that is tried again gets its secrets from here
        os.environ.update(secrets)
        watcher = _follow(chains, _policy(args), 15.0 if args.poll_s is None else args.poll_s)
    except KeyboardInterrupt:
        print(f"the jobs go on; to go on with the recording: {_again(args, record)}")
        raise
    left = [one for one in watcher.recipes if not is_finished(one.paths)]
    hours = sum(one.gpu_hours for one in watcher.recipes)
    launch.say(
        f"[INFO]: {len(runs) - len(left)} of {len(runs)} runs finished; the jobs that were followed"
        f" took {hours:.2f} GPU-hours"
    )
    if left:
        names = "\n".join(f"  {baseline_jobs.how_it_ended(one)}" for one in left)
        raise EvenkeelError(
            f"no baseline yet, since {len(left)} of its runs did not come to their end:\n{names}",
            fix="where the code is at fault, mend it and launch anew, since this snapshot stays as"
            f" it is; otherwise mend the cause and train them on: {_again(args, record)}",
        )
    return [run.run_dir for run in runs]


def _again(args: argparse.Namespace, record: LaunchRecord) -> str:
    """The command that goes on with a recording, with all that was said of the file."""
    words = [baseline_jobs.command(record)]
    for name in ("runs", "twins", "output", "reason", "by", "root"):
        value = getattr(args, name)
        if value not in (None, ""):
            words.append(f"--{name} {shlex.quote(str(value))}")
    for name in ("direction", "without"):
        words += [f"--{name} {shlex.quote(value)}" for value in getattr(args, name)]
    for name in ("exact", "bit_exact", "force"):
        words += [f"--{name.replace('_', '-')}"] * getattr(args, name)
    return " ".join(words)


def _submit(
    args: argparse.Namespace,
    record: LaunchRecord,
    chains: Sequence[Submission],
    secrets: Mapping[str, str],
) -> bool:
    """Submit the jobs that are missing; whether to go on from there."""
    missing = {chain.label: len(baseline_jobs.unsubmitted(chain)) for chain in chains}
    to_submit = [chain for chain in chains if missing[chain.label]]
    if to_submit:
        jobs, shape = sum(missing.values()), to_submit[0].shape
        launch.say(_estimate(args.name, len(to_submit), jobs, shape))
    if _is_dry(args):
        return False
    if to_submit:
        for line in continuation.missing_secrets(record.options, secrets):
            launch.say(line)
        launcher.submit(record, secrets, launch.say, to_submit)
    return True


def _estimate(name: str, num_runs: int, num_jobs: int, shape: JobShape) -> str:
    hours = rounded_hours(gpu_minutes(replace(shape, num_runs=num_jobs)))
    runs, jobs = (f"{n} {word}{'' if n == 1 else 's'}"
                  for n, word in ((num_runs, "run"), (num_jobs, "job")))  # fmt: skip
    return f"[INFO]: {runs} of {name} in {jobs} may take up to {hours} GPU-hours"


def _follow(chains: Sequence[Submission], policy: WatchPolicy, poll_s: float) -> Watcher:
    from evenkeel.report.watch_view import view_of  # rich; what is refused does without it

    cluster, view = Cluster(), view_of(sys.stdout)
    act = Intervention(cluster, policy.grace_s, view.note)
    # by no band of the loss: what is recorded anew may be meant to differ from what was
    watcher = Watcher(chains, cluster, policy, act=act)
    with view:
        while True:
            view.show([_unjudged(row) for row in watcher.poll()], watcher.trouble)
            if watcher.is_done:
                return watcher
            time.sleep(poll_s)


def _unjudged(row: Row) -> Row:
    """A finished run as such; its driver judged it by a baseline that there is not, or not yet."""
    if row.is_done and is_finished(row.paths):
        return replace(row, state="FINISHED", reason="", is_finished=True)
    return row


def _policy(args: argparse.Namespace) -> WatchPolicy:
    retry, doom = RetryPolicy(), DoomPolicy()
    if args.retries is not None:
        retry = replace(retry, retries=args.retries)
    if args.hang_minutes is not None:
        doom = replace(doom, hang_s=args.hang_minutes * 60 or None)
    return WatchPolicy(retry=retry, doom=doom)
