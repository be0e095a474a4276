"""Which jobs the runs of a baseline still need, by what lies on the disk."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from evenkeel.errors import InputError, MachineError
from evenkeel.launch.baseline_jobs import (
    chains_to_follow,
    command,
    how_it_ended,
    runs_of,
    unsubmitted,
)
from evenkeel.launch.cluster import Cluster, ClusterUnreachableError
from evenkeel.launch.evidence import write_stopped
from evenkeel.launch.job_report import JobReport
from evenkeel.launch.job_script import job_files, job_name
from evenkeel.launch.launch_record import LaunchRecord, read_record
from evenkeel.launch.launcher import interrupted, resumable
from evenkeel.launch.outcome import StopReason
from evenkeel.launch.request import Recording, Submission
from evenkeel.launch.watch import Watcher
from evenkeel.run_paths import RunPaths
from evenkeel.training.event_writer import EventWriter

from .conftest import GitTree
from .test_snapshot import A, request, shown, taken

WANTED = Recording(runs=2, twins=1)
DIVERGED = 76


class NobodyKnows(Cluster):
    """A Slurm that answers, and has forgotten every job."""

    def reports(
        self, expected: Mapping[int, str], restarted: Collection[int] = ()
    ) -> dict[int, JobReport]:
        return {}


class Silent(Cluster):
    """A Slurm whose controller is away."""

    def reports(
        self, expected: Mapping[int, str], restarted: Collection[int] = ()
    ) -> dict[int, JobReport]:
        raise ClusterUnreachableError("no answer")


@pytest.fixture
def record(tree: GitTree) -> LaunchRecord:
    """A launch for a baseline; its driver takes two jobs of 50 steps."""
    return taken(tree, A, recording=WANTED).record


def noted(
    run: Submission,
    job: int,
    end: int | None = None,
    state: str = "submitted",
    after: int | None = None,
) -> None:
    """A job as its record has it, with a journal where it has ended with this status."""
    files = job_files(run, job)
    files.folder.mkdir(exist_ok=True)
    value = {
        "schema_version": 1, "run": job, "name": job_name(run, job), "state": state,
        "job_id": 70 + job if state == "submitted" else None, "after": after, "time": "",
        "earlier_ids": [], "error": "not today" if state == "refused" else None,
    }  # fmt: skip
    files.record.write_text(json.dumps(value))
    if end is not None:
        now = int(time.time())
        lines = (f"start\t{now}\t{70 + job}\t0\tn1", f"end\t{now}\t{70 + job}\t0\t{end}")
        files.journal.write_text("".join(f"{line}\n" for line in lines))


def trained(run: Submission, steps: int, status: int, *, job: int = 1, judged: bool = True) -> None:
    """What a trainer and its driver leave behind."""
    paths = RunPaths(run.run_dir)
    writer = EventWriter(paths.log_dir)
    for step in range(1, steps + 1):
        writer.add_scalars({"train/loss": 1.0}, step)
    writer.close()
    attempts = [{"exit_status": status, "job_id": str(70 + job)}]
    paths.run_json.write_text(json.dumps({"schema_version": 1, "attempts": attempts}))
    if judged:
        verdict = {"verdict": "NO_BASELINE", "message": "", "last_step": steps, "max_steps": 100}
        paths.verdict.write_text(json.dumps(verdict))


def places(chains: list[Submission]) -> dict[str, tuple[int, list[int]]]:
    """Run → number of its first job, and the jobs to submit."""
    return {chain.variant: (chain.first_run, unsubmitted(chain)) for chain in chains}


def test_every_run_has_its_arguments_and_folders(record: LaunchRecord) -> None:
    assert read_record(record.folder) == record
    runs = runs_of(record, WANTED)
    assert [run.label for run in runs] == [f"{A}.own-seed", f"{A}.seed1001", f"{A}.twin1"]
    arguments = [run.options.script_args for run in runs]
    assert arguments == [(), ("seed=1001",), ("policy.numeric_twin=1",)]
    own = record.submission(A)
    assert [run.run_dir for run in runs] == [
        own.run_dir.with_name(f"{A}.{run.variant}") for run in runs
    ]
    assert len({run.launch_dir for run in runs}) == 3
    assert len(runs_of(record, Recording(runs=5, twins=0))) == 5


def test_at_first_every_job_is_submitted(record: LaunchRecord) -> None:
    whole = (1, [1, 2])
    chains = chains_to_follow(runs_of(record, WANTED), NobodyKnows())
    assert places(chains) == {"own-seed": whole, "seed1001": whole, "twin1": whole}


def test_what_is_left_follows_from_jobs_and_results(record: LaunchRecord) -> None:
    runs = {run.variant: run for run in runs_of(record, Recording(runs=7, twins=0))}
    finished, crashed, open_, cut_off, refused, unjudged, diverged = runs.values()
    noted(finished, 1, end=1)
    trained(finished, 100, 0)
    for job in (1, 2):
        noted(crashed, job, end=1, after=None if job == 1 else 71)
    trained(crashed, 30, 1)
    for job in (1, 2):
        noted(open_, job, after=None if job == 1 else 71)
    noted(cut_off, 1)
    noted(cut_off, 2, state="intended", after=71)
    noted(refused, 1, state="refused")
    noted(unjudged, 1, end=137)
    trained(unjudged, 100, 0, judged=False)
    noted(diverged, 1, end=DIVERGED)
    trained(diverged, 30, DIVERGED)
    chains = chains_to_follow(list(runs.values()), NobodyKnows())
    assert places(chains) == {
        crashed.variant: (3, [3, 4]),
        open_.variant: (1, []),
        cut_off.variant: (1, [2]),
        refused.variant: (1, [1, 2]),
        unjudged.variant: (2, [2, 3]),
        # a further job would find that its loss is not finite, and end
        diverged.variant: (1, []),
    }


def test_a_second_chain_that_was_cut_off_is_completed(record: LaunchRecord) -> None:
    run = runs_of(record, WANTED)[1]
    for job in (1, 2):
        noted(run, job, end=1, after=None if job == 1 else 71)
    trained(run, 30, 1)
    noted(run, 3)
    for job in (1, 2, 3, 4):
        job_files(run, job).script.touch()
    assert places(chains_to_follow([run], NobodyKnows())) == {"seed1001": (3, [4])}
    noted(run, 3, state="refused")
    assert places(chains_to_follow([run], NobodyKnows())) == {"seed1001": (3, [3, 4])}


def test_a_job_that_is_still_to_come_judges_what_one_before_it_has_trained(
    record: LaunchRecord,
) -> None:
    run = runs_of(record, WANTED)[0]
    noted(run, 1, end=137)
    noted(run, 2, after=71)
    for job in (1, 2):
        job_files(run, job).script.touch()
    trained(run, 100, 0, judged=False)
    (chain,) = chains_to_follow([run], NobodyKnows())
    assert places([chain]) == {"own-seed": (2, [])}
    watcher = Watcher([chain], NobodyKnows())
    watcher.poll()
    assert not watcher.is_done


def test_a_loss_that_diverged_before_the_run_began_anew_is_over(record: LaunchRecord) -> None:
    run = runs_of(record, WANTED)[1]
    noted(run, 1, end=DIVERGED)
    noted(run, 2, end=DIVERGED, after=71)
    # the watcher's word of it lies beside the jobs, and stays when the run is removed
    write_stopped(run, 1, StopReason.NON_FINITE, "train/loss is nan at step 30", {})
    trained(run, 30, DIVERGED)
    assert places(chains_to_follow([run], NobodyKnows())) == {"seed1001": (1, [])}
    shutil.rmtree(run.run_dir)
    assert places(chains_to_follow([run], NobodyKnows())) == {"seed1001": (3, [3, 4])}
    noted(run, 3)
    noted(run, 4, after=73)
    trained(run, 10, 0, job=3)
    assert places(chains_to_follow([run], NobodyKnows())) == {"seed1001": (3, [])}


def test_nobody_guesses_where_slurm_gives_no_answer(record: LaunchRecord) -> None:
    run = runs_of(record, WANTED)[0]
    noted(run, 1)
    with pytest.raises(MachineError, match="what the jobs do is not known"):
        chains_to_follow([run], Silent())


def test_how_a_run_ended_says_where_to_look(record: LaunchRecord) -> None:
    crashed, diverged, unjudged = runs_of(record, WANTED)
    noted(crashed, 1, end=7)
    job_files(crashed, 1).output.write_text("ValueError: no such data\n")
    noted(diverged, 1, end=DIVERGED)
    trained(diverged, 30, DIVERGED)
    noted(unjudged, 1, end=137)
    trained(unjudged, 100, 0, judged=False)
    job_files(unjudged, 1).output.touch()
    ends = []
    for run in (crashed, diverged, unjudged):
        watcher = Watcher([run], NobodyKnows())
        watcher.poll()
        ends.append(how_it_ended(watcher.recipes[0]))
    output = job_files(unjudged, 1).output
    assert ends[1:] == [
        f"{A}.seed1001: diverged: the loss was not finite any more after step 30; remove"
        f" {diverged.run_dir} to train it again",
        f"{A}.twin1: completed: all 100 steps are done, but its driver left no verdict;"
        f" see {output}",
    ]
    assert ends[0].endswith(f"; see {job_files(crashed, 1).output}")


def test_a_later_chain_is_watched_without_the_jobs_before_it(record: LaunchRecord) -> None:
    run = runs_of(record, WANTED)[0]
    noted(run, 1, end=137)
    trained(run, 100, 0, judged=False)
    (chain,) = chains_to_follow([run], NobodyKnows())
    noted(run, 2)
    watcher = Watcher([chain], NobodyKnows())
    (row,) = watcher.poll()
    assert [one.run for one in watcher.recipes[0].records] == [2]
    assert (row.run, row.runs) == (2, 3)
    assert not watcher.is_done  # all steps are done, and it is not judged before job 2 has ended


def test_what_is_no_launch_for_a_baseline_is_refused(tree: GitTree, record: LaunchRecord) -> None:
    other = taken(tree, A).record
    with pytest.raises(InputError, match="trains no baseline"):
        runs_of(other, WANTED)
    record.submission(A).driver_path.unlink()
    with pytest.raises(InputError, match="the snapshot of this launch is gone"):
        runs_of(record, WANTED)


def test_a_launch_for_a_baseline_is_no_launch_of_the_recipe(tree: GitTree) -> None:
    night = taken(tree, A).record
    record = taken(tree, A, recording=WANTED).record
    assert shown(tree, A).resolve() == night.submission(A).launch_dir
    again = request(tree, A)
    assert interrupted(again, (A,)) == night
    assert resumable(again, (A,)) == night
    assert record.submission(A).tree != night.submission(A).tree
    assert command(record) == (
        f"evenkeel baseline record {A} --launch '{record.folder}'"  # it has a blank in it
    )


def test_an_older_launch_has_no_recording(tree: GitTree) -> None:
    record = taken(tree, A).record
    value = json.loads(Path(record.folder, "launch.json").read_text())
    assert "recording" not in value
    assert read_record(record.folder).recording is None
