"""The runs of a baseline as jobs: one chain each, all of one snapshot, so that they run at once.

Each run lies beside the one of its driver, and its jobs in a folder of its own: whoever picks the
launch up finds again by their names what was submitted. What is to be done follows from the jobs'
records, from Slurm and from the runs' own files alone, so a recorder may be killed anywhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from evenkeel.errors import InputError, MachineError
from evenkeel.launch.baseline_runs import is_finished, planned_runs
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.job_script import job_files
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.outcome import Outcome
from evenkeel.launch.recipe_watch import RecipeWatch
from evenkeel.launch.request import Recording, Submission
from evenkeel.launch.submission import SubmitState, read_records
from evenkeel.launch.watch import Watcher
from evenkeel.run_paths import RunPaths


def command(record: LaunchRecord) -> str:
    """What goes on with a launch that was made for a baseline."""
    names = " ".join(record.names)
    return f"evenkeel baseline record {names} --launch {shlex.quote(str(record.folder))}"


def runs_of(record: LaunchRecord, wanted: Recording) -> list[Submission]:
    """Every run that the baseline takes, from its first job on; more may be wanted than at first.

    Raises:
        InputError: the launch was not made for a baseline, or its snapshot is gone.
    """
    if record.recording is None:
        raise InputError(
            f"launch {record.launch_id} trains no baseline",
            path=record.folder,
            fix="name one that 'evenkeel baseline record --executor slurm' has made",
        )
    (own,) = record.submissions()
    if not own.driver_path.is_file():
        raise InputError(
            "the snapshot of this launch is gone, so it cannot go on",
            path=own.driver_path,
            fix=f"record anew, with --executor slurm; its commit was {record.commit}",
        )
    planned = planned_runs(wanted.runs, wanted.twins)
    return [own.beside(variant, arguments) for variant, arguments in planned.items()]


def chains_to_follow(runs: Sequence[Submission], cluster: Cluster) -> list[Submission]:
    """Of each run that is not finished the chain that is to train it, submitted or not.

    Where jobs are pending or running, that is their chain, with what was left unsubmitted of it.
    A run that ended before it was finished gets another chain behind its last job, which trains
    on from the last checkpoint.

    Raises:
        MachineError: the cluster gave no answer, so that nobody knows what runs.
    """
    unfinished = [run for run in runs if not is_finished(RunPaths(run.run_dir))]
    looking = Watcher(list(map(_newest_chain, unfinished)), cluster)
    looking.poll()
    if looking.trouble is not None:
        raise MachineError(
            f"what the jobs do is not known: {looking.trouble}", fix="call again when Slurm answers"
        )
    return [_chain_of(recipe) for recipe in looking.recipes]


def _newest_chain(run: Submission) -> Submission:
    """The jobs that were submitted last; what became of those before is over, and may be undone."""
    first = max((one.run for one in read_records(run) if one.after is None), default=1)
    # the scripts of a chain are all written before its first job is submitted
    names = (path.stem.removeprefix("run-") for path in run.launch_dir.glob("run-*.sh"))
    scripts = [int(name) for name in names if name.isdecimal() and int(name) >= first]
    return _from_to(run, first, max(scripts, default=first + run.runs - 1))


def _from_to(run: Submission, first: int, last: int) -> Submission:
    return replace(run, first_run=first, runs=last - first + 1)


def _chain_of(recipe: RecipeWatch) -> Submission:
    chain, outcome = recipe.submission, recipe.outcome.kind
    records = read_records(chain)
    submitted = max((one.run for one in records if one.state is SubmitState.SUBMITTED), default=0)
    if outcome is Outcome.DIVERGED and chain.run_dir.exists():
        # a further job would end at once: its loss stays as it is
        return _from_to(chain, chain.first_run, submitted)
    still = [one.run for one in recipe.records if recipe.jobs[one.run].outcome is None]
    if still:
        # a run that did all its steps unjudged is judged by the job that is still to come
        first = still[0] if outcome.is_final else chain.first_run
        return _from_to(chain, first, chain.first_run + chain.runs - 1)
    return _from_to(chain, submitted + 1, submitted + chain.shape.num_runs)


def unsubmitted(chain: Submission) -> list[int]:
    """Numbers of the jobs of a chain that are not submitted yet, as far as the records tell."""
    known = {one.run for one in read_records(chain) if one.state is SubmitState.SUBMITTED}
    jobs = range(chain.first_run, chain.first_run + chain.runs)
    return [run for run in jobs if run not in known]


def how_it_ended(recipe: RecipeWatch) -> str:
    """Of a run that was not finished: its outcome, and where to look."""
    outcome, current = recipe.outcome, recipe.current
    message = outcome.message.split("\n")[0]
    if outcome.kind is Outcome.COMPLETED:
        message += ", but its driver left no verdict"
    if outcome.kind is Outcome.DIVERGED:
        message += f"; remove {recipe.paths.root} to train it again"
    elif current is not None:
        output = job_files(recipe.submission, current.run).output
        message += f"; see {output}" if output.exists() else ""
    return f"{recipe.submission.label}: {outcome.kind.value}: {message}"
