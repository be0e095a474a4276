"""``evenkeel watch``: follow the jobs of a launch to one verdict per recipe."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenkeel.errors import EXIT_FINDING, EXIT_OK, EvenkeelError, InputError, did_you_mean

if TYPE_CHECKING:
    from evenkeel.cli.second_look import SecondLook
    from evenkeel.launch.launch_record import LaunchRecord
    from evenkeel.launch.watch import Watcher

EPILOG = """\
examples:
  evenkeel watch                           # the newest launch of this repository
  evenkeel watch 20260102-030405-1a2b3c    # a launch by its id, or by its folder
  evenkeel watch --once --json             # how it stands now, for machines

Ctrl-C ends the watching, not the jobs; call it again to go on. A run whose loss is not finite,
or far above its baseline's, or that logs no step for --hang-minutes, is ended; a job that the
cluster failed is tried again; a result in doubt gets a confirming run. --look-on does nothing.

The runs of a baseline are followed by 'evenkeel baseline record NAME --launch LAUNCH' instead, and
launches that were made for one do not count as the newest.

exit status: 0 every recipe PASS or IMPROVED; 1 not so, or (--once) not yet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("launch", nargs="?", metavar="LAUNCH", help="an id or a folder")
    parser.add_argument("--root", type=Path, help="the repository (default: around here)")
    parser.add_argument("--snapshot-dir", metavar="DIR", help="instead of code_snapshots")
    parser.add_argument("--once", action="store_true", help="look once")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.add_argument("--look-on", action="store_true", help="do nothing about any job")
    parser.add_argument("--poll-s", type=float, default=15.0, metavar="S", help="default: 15")
    parser.add_argument(
        "--retries", type=int, default=2, metavar="N", help="of failures of the cluster; default: 2"
    )
    parser.add_argument(
        "--retry-on",
        action="append",
        metavar="KIND",
        help="node-failure, preempted, hardware; default: all three",
    )
    parser.add_argument(
        "--keep-suspects",
        action="store_true",
        help="retries may use nodes on which several recipes of the launch failed",
    )
    parser.add_argument(
        "--hang-minutes", type=float, default=30.0, metavar="M", help="default: 30; 0: never"
    )
    parser.add_argument(
        "--steps-above",
        type=int,
        default=20,
        metavar="N",
        help="end a run whose loss is above its baseline's band for N steps in a row; "
        "default: 20; 0: never",
    )
    parser.add_argument(
        "--confirm-budget",
        type=float,
        metavar="HOURS",
        help="GPU-hours for confirming runs of results in doubt; default: as the suite declares, "
        "else a tenth of the launch's and at least two runs of its dearest recipe; 0: none",
    )
    parser.add_argument("--grace-s", type=float, default=120.0, help=argparse.SUPPRESS)
    parser.add_argument("--forgotten-s", type=float, default=60.0, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Watch to the end; the exit status of the CLI."""
    from evenkeel.launch import baseline_jobs
    from evenkeel.launch.launch_record import LaunchState, read_state

    record = find_launch(args.launch, args.root, args.snapshot_dir)
    if record.recording is not None:
        raise InputError(
            f"launch {record.launch_id} trains the runs of a baseline, which have no verdict yet",
            path=record.folder,
            fix=f"{baseline_jobs.command(record)} follows them and records it",
        )
    if read_state(record.folder) is LaunchState.PREPARED:
        raise InputError(
            f"launch {record.launch_id} was only prepared (DRYRUN=2): nothing is submitted",
            path=record.folder,
            fix="launch without DRYRUN, or name another launch",
        )
    try:
        return watch(record, args)
    except KeyboardInterrupt:
        print(f"the jobs go on; to watch them again: evenkeel watch {record.folder}")
        raise


def find_launch(launch: str | None, root: Path | None, snapshot_dir: str | None) -> LaunchRecord:
    """The launch that is meant: a folder, an id, or the newest one that has jobs to be judged.

    Raises:
        InputError: there is no such launch.
    """
    from evenkeel.launch.launch_record import LAUNCHES, LaunchState, read_record, read_state
    from evenkeel.launch.options import snapshots_dir
    from evenkeel.run_paths import Repository

    if launch and (Path(launch) / "launch.json").is_file():
        return read_record(Path(launch).absolute())
    base = root or Repository.around(Path.cwd()).root
    folder = snapshots_dir(base, snapshot_dir, os.environ).absolute() / LAUNCHES
    known = sorted(path.parent for path in folder.glob("[0-9]*/launch.json"))
    if launch and (folder / launch / "launch.json").is_file():
        return read_record(folder / launch)
    if not known:
        raise InputError(
            "nothing was launched from this repository yet",
            path=folder.parent,
            fix="launch a suite with 'tools/launch --suite nightly --watch', or one recipe with"
            " 'tools/launch DRIVER'; for launches kept elsewhere pass --root or --snapshot-dir",
        )
    if launch:
        ids = [path.name for path in known]
        raise InputError(
            f"no launch {launch!r}{did_you_mean(launch, ids)}; the newest are"
            f" {', '.join(reversed(ids[-3:]))}",
            path=folder.parent,
            fix="name one by its id or folder, none for the newest; 'evenkeel snapshot list' shows"
            " which recipes each has",
        )
    # DRYRUN=2 leaves launches without jobs, and baselines some whose runs have no verdict: neither
    # must hide those that have
    records = [read_record(path) for path in reversed(known)]
    of_recipes = [record for record in records if record.recording is None]
    launched = [one for one in of_recipes if read_state(one.folder) is not LaunchState.PREPARED]
    return (launched or of_recipes or records)[0]


def watch(record: LaunchRecord, args: argparse.Namespace) -> int:
    """Follow one launch; prints as it goes and the verdicts at the end."""
    from functools import partial

    from evenkeel.cli.second_look import SecondLook, budget_of
    from evenkeel.launch.cluster import Cluster
    from evenkeel.launch.intervention import Intervention
    from evenkeel.launch.launcher import is_being_submitted
    from evenkeel.launch.request import ExecutorKind
    from evenkeel.launch.watch import Watcher
    from evenkeel.report.watch_view import view_of

    cluster, view = Cluster(), view_of(sys.stdout, quiet=args.json)
    local = record.options.executor is ExecutorKind.LOCAL
    looks_on = args.look_on or args.once
    policy, budget = _policy(args), budget_of(record, args.confirm_budget)

    def being_submitted() -> bool:
        return is_being_submitted(record.folder)

    act = None if looks_on or local else Intervention(cluster, policy.grace_s, view.note)
    watching = partial(Watcher, cluster=cluster, policy=policy, act=act)
    watcher = watching(record.submissions(), upper=_bands(record), being_submitted=being_submitted)
    second = SecondLook(record, watching([]), budget, view.note)
    second.find_begun(watcher)
    with view:
        while True:
            rows = [*watcher.poll(), *second.confirming.poll()]
            # a local launch trains by itself until its launcher is done
            waits = local and being_submitted()
            goes_on = not looks_on and (waits or second.follow(watcher))
            view.show(rows, watcher.trouble or second.confirming.trouble)
            if args.once or (watcher.is_done and not goes_on):
                break
            time.sleep(args.poll_s)
    return _conclude(record, watcher, second, args)


def _bands(record: LaunchRecord) -> dict[str, dict[int, float]]:
    """Recipe → upper edge of its loss, of all platforms that have a baseline in the snapshot."""
    from evenkeel.run_paths import Repository

    found: dict[str, dict[int, float]] = {}
    for submission in record.submissions():
        folder = Repository(submission.tree).baselines_dir
        for path in sorted(folder.glob(f"*/{submission.name}/*.json")):
            from evenkeel.convergence import baseline, loss_band

            try:
                known = baseline.load(path)
            except EvenkeelError as error:
                print(f"evenkeel: no band of the loss: {error}", file=sys.stderr)
                continue
            curve = known.curves.get("train/loss")
            if curve is None or known.retired is not None:
                continue
            edges = found.setdefault(submission.name, {})
            for step, value in loss_band.upper_edge(curve).items():
                edges[step] = max(value, edges.get(step, value))
    return found


def _policy(args: argparse.Namespace) -> Any:
    from evenkeel.launch.chain_outcome import RetryPolicy
    from evenkeel.launch.outcome import INFRASTRUCTURE, Outcome
    from evenkeel.launch.run_progress import RECENT_STEPS, DoomPolicy
    from evenkeel.launch.watch import WatchPolicy

    if not 0 <= args.steps_above <= RECENT_STEPS:
        raise InputError(f"--steps-above {args.steps_above}: not from 0 to {RECENT_STEPS}")
    names = {kind.value.replace(" ", "-"): kind for kind in INFRASTRUCTURE}
    kinds: set[Outcome] = set()
    for word in args.retry_on or names:
        if word not in names:
            raise InputError(
                f"--retry-on {word}: not a failure of the cluster", fix=f"one of {sorted(names)}"
            )
        kinds.add(names[word])
    return WatchPolicy(
        retry=RetryPolicy(args.retries, frozenset(kinds)),
        doom=DoomPolicy(steps_above=args.steps_above, hang_s=args.hang_minutes * 60 or None),
        grace_s=args.grace_s,
        exclude_suspects=not args.keep_suspects,
        forgotten_s=args.forgotten_s,
    )


def _conclude(
    record: LaunchRecord, watcher: Watcher, second: SecondLook, args: argparse.Namespace
) -> int:
    from evenkeel.convergence.verdict import Verdict
    from evenkeel.report.equivalence_result import finding_lines, findings_of
    from evenkeel.report.watch_result import result_of, write_result
    from evenkeel.report.watch_view import second_look_lines, verdict_lines

    result = result_of(record, watcher)
    result |= {"equivalence": [], "second_look": second.to_json()}
    result["gpu_hours"] = round(result["gpu_hours"] + second.gpu_hours, 4)
    if watcher.is_done:
        result["equivalence"] = [one.to_json() for one in findings_of(record)]
        write_result(record, result)
    if args.json:
        print(json.dumps(result, indent=2))
    elif watcher.is_done:
        found = [*finding_lines(result["equivalence"]), *second_look_lines(result["second_look"])]
        print("\n".join([*found, *verdict_lines(result)]))
    verdicts = [one["verdict"] for one in (*result["recipes"], *result["equivalence"])]
    good = all(verdict is not None and Verdict(verdict).exit_code == 0 for verdict in verdicts)
    return EXIT_OK if good else EXIT_FINDING
