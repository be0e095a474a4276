"""Every fault that a night can bring, on a real Slurm, and the outcome that it must lead to."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launches import driver_that_trains, make_submission
from mini_cluster import MiniCluster, _wait

from evenkeel.launch import intervention
from evenkeel.launch.chain_outcome import RetryPolicy
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.executor import SlurmSubmitter
from evenkeel.launch.intervention import Intervention
from evenkeel.launch.job_script import job_files
from evenkeel.launch.outcome import JobOutcome, Outcome
from evenkeel.launch.recipe_watch import RecipeWatch
from evenkeel.launch.request import LaunchOptions, Submission
from evenkeel.launch.run_progress import DoomPolicy
from evenkeel.launch.submission import JobRecord, submit_chain
from evenkeel.launch.watch import Watcher, WatchPolicy

ClusterMaker = Callable[..., MiniCluster]
NO_RETRY = RetryPolicy(retries=0)


def training(
    folder: Path,
    *faults: str,
    letter: str = "t",
    max_steps: int = 10,
    step_s: float = 0.05,
    per_run: int = 1000,
    **more: Any,
) -> Submission:
    """A recipe whose driver runs the stand-in trainer with these faults."""
    driver = driver_that_trains(*faults, max_steps=max_steps, step_s=step_s, per_run=per_run)
    name = f"sft-{letter}-1n1g-fsdp2tp1"
    return make_submission(folder, driver, name=name, max_steps=max_steps, **more)


def submit(submission: Submission) -> list[JobRecord]:
    return submit_chain(submission, SlurmSubmitter(), Cluster())


def job_id(record: JobRecord) -> int:
    assert record.job_id is not None
    return record.job_id


def watcher_of(
    submissions: Sequence[Submission],
    *,
    retry: RetryPolicy = NO_RETRY,
    hang_s: float | None = None,
    notes: list[str] | None = None,
    bands: dict[str, dict[int, float]] | None = None,
) -> Watcher:
    cluster = Cluster()
    doom = DoomPolicy(steps_above=3, hang_s=hang_s)
    policy = WatchPolicy(retry=retry, doom=doom, forgotten_s=2, grace_s=20 if bands else 1)
    say = (lambda line: None) if notes is None else notes.append
    act = Intervention(cluster, policy.grace_s, say)
    return Watcher(submissions, cluster, policy, act=act, upper=bands)


def to_the_end(watcher: Watcher, limit_s: float = 120) -> list[RecipeWatch]:
    def look() -> bool:
        watcher.poll()
        return watcher.is_done

    _wait("the end of all recipes", look, limit_s)
    return watcher.recipes


def outcome_of(submission: Submission, **options: Any) -> JobOutcome:
    (recipe,) = to_the_end(watcher_of([submission], **options))
    return recipe.outcome


def trained(submission: Submission) -> list[int]:
    """Steps that were checkpointed, in order: none may be missing, none done twice."""
    return [int(line) for line in (submission.run_dir / "trained").read_text().split()]


def wait_for_step(submission: Submission, step: int) -> None:
    file = submission.run_dir / "trained"
    _wait(f"step {step}", lambda: file.exists() and len(file.read_text().split()) >= step, 60)


def lose_node(cluster: MiniCluster, name: str) -> None:
    """A node dies; Slurm, which would notice in half a minute, is told at once."""
    cluster.kill_node(name)
    cluster.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")


def test_a_chain_trains_every_step_once_and_ends_early(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    submission = training(tmp_path, per_run=4, max_steps=10, runs=5, steps_per_run=4)
    records = submit(submission)
    (recipe,) = to_the_end(watcher_of([submission]))
    assert recipe.outcome.kind is Outcome.COMPLETED
    assert trained(submission) == list(range(1, 11))
    kinds = [job.outcome.kind for job in recipe.jobs.values() if job.outcome]
    assert kinds[:3] == [Outcome.INCOMPLETE, Outcome.INCOMPLETE, Outcome.COMPLETED]
    # what was left of the chain is cancelled, or found nothing to do
    for record in records[3:]:
        assert cluster.wait_for(job_id(record), "CANCELLED", "COMPLETED")
    assert trained(submission) == list(range(1, 11))


def test_a_killed_node_costs_no_step(new_cluster: ClusterMaker, tmp_path: Path) -> None:
    cluster = new_cluster(nodes=2)
    submission = training(tmp_path, step_s=0.2, max_steps=20)
    (record,) = submit(submission)
    wait_for_step(submission, 3)
    lose_node(cluster, cluster.nodes[0])
    outcome = outcome_of(submission)
    assert outcome.kind is Outcome.COMPLETED
    assert outcome.nodes == tuple(cluster.nodes)
    assert trained(submission) == list(range(1, 21))
    assert cluster.state(job_id(record)) == "COMPLETED"


def test_a_killed_node_without_requeue_is_a_node_failure_and_is_retried(
    new_cluster: ClusterMaker, tmp_path: Path
) -> None:
    cluster = new_cluster(nodes=2)
    options = LaunchOptions(sbatch_options=("--no-requeue",))
    submission = training(tmp_path, step_s=0.2, max_steps=20, options=options)
    submit(submission)
    wait_for_step(submission, 3)
    lose_node(cluster, cluster.nodes[0])
    assert outcome_of(submission).kind is Outcome.NODE_FAILURE
    notes: list[str] = []
    watcher = watcher_of([submission], retry=RetryPolicy(retries=1), notes=notes)
    (recipe,) = to_the_end(watcher)
    assert recipe.outcome.kind is Outcome.COMPLETED
    assert [job.outcome.kind for job in recipe.jobs.values() if job.outcome] == [
        Outcome.NODE_FAILURE,
        Outcome.COMPLETED,
    ]
    assert [job.outcome.nodes for job in recipe.jobs.values() if job.outcome] == [
        (cluster.nodes[0],),
        (cluster.nodes[1],),
    ]
    assert trained(submission) == list(range(1, 21))
    assert len(notes) == 1


def test_a_writer_that_slurm_has_given_up_notices(
    new_cluster: ClusterMaker, tmp_path: Path
) -> None:
    """Only slurmd dies: the job is started again elsewhere while its first start lives on."""
    cluster = new_cluster(nodes=2)
    submission = training(tmp_path, step_s=0.3, max_steps=40)
    submit(submission)
    wait_for_step(submission, 3)
    cluster.kill_slurmd(cluster.nodes[0])
    name = cluster.nodes[0]
    cluster.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")
    assert outcome_of(submission).kind is Outcome.COMPLETED
    assert "another writer has taken over" in job_files(submission, 1).output.read_text()
    steps = trained(submission)
    # the two may overlap by the step that was being written when the second one began
    assert sorted(set(steps)) == list(range(1, 41))
    assert len(steps) <= 41


def test_a_requeued_and_a_preempted_job_go_on_where_they_were(
    new_cluster: ClusterMaker, tmp_path: Path
) -> None:
    cluster = new_cluster(nodes=3)
    low = LaunchOptions(partition="low")
    gone = LaunchOptions(partition="lowcancel")
    requeued = training(tmp_path, letter="r", step_s=0.2, max_steps=30)
    preempted = training(tmp_path, letter="p", step_s=0.2, max_steps=30, options=low)
    cancelled = training(tmp_path, letter="c", step_s=0.2, max_steps=30, options=gone)
    submissions = [requeued, preempted, cancelled]
    records = [submit(submission)[0] for submission in submissions]
    for submission in submissions:
        # accounts count whole seconds: these starts must last more than one
        wait_for_step(submission, 9)
    watcher = watcher_of(submissions)
    cluster.run("scontrol", "requeue", str(job_id(records[0])))
    urgent = cluster.submit("sleep 2", "--nodes=3", "--exclusive")
    seen: set[Outcome] = set()

    def look() -> bool:
        seen.update(row.outcome.kind for row in watcher.poll())
        return watcher.is_done

    _wait("all three", look, 90)
    assert cluster.state(urgent) == "COMPLETED"
    kinds = [recipe.outcome.kind for recipe in watcher.recipes]
    assert kinds == [Outcome.COMPLETED, Outcome.COMPLETED, Outcome.PREEMPTED]
    assert Outcome.REQUEUED in seen
    assert trained(requeued) == trained(preempted) == list(range(1, 31))
    for recipe in watcher.recipes[:2]:
        report = recipe.jobs[1].report
        assert report is not None
        assert report.earlier_s is not None
        assert report.earlier_s > 0
        held_s = report.elapsed_s + report.earlier_s
        assert recipe.gpu_hours == pytest.approx(held_s / 3600)
        # without accounts the run's own files tell nearly the same: starts are whole seconds,
        # and a trainer that is ended goes on for up to KillWait
        recipe.jobs[1].report = replace(report, earlier_s=None)
        assert report.elapsed_s < recipe.gpu_hours * 3600 <= held_s + 4


def test_a_node_on_which_recipes_failed_is_left_out_of_their_retries(
    cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervention, "_apart", lambda act, *arguments: act(*arguments))
    bad, *others = cluster.nodes
    signs = {
        "a": shlex.join([sys.executable, "-c", "raise RuntimeError('uncorrectable ECC error')"]),
        "b": shlex.join(["echo", "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."]),
    }
    # only the bad node is free until both have failed on it
    blockers = [cluster.submit("sleep 300", "--exclusive", f"--nodelist={one}") for one in others]
    for blocker in blockers:
        cluster.wait_for(blocker, "RUNNING")
    submissions = []
    for letter, sign in signs.items():
        fails = f'[ "$SLURMD_NODENAME" != {bad} ] || {{ {sign}; exit 1; }}\n'
        body = fails + driver_that_trains()
        submissions.append(make_submission(tmp_path / letter, body, name=f"sft-{letter}-1n1g"))
    for record in [submit(submission)[0] for submission in submissions]:
        cluster.wait_for(job_id(record), "FAILED")
    cluster.run("scancel", *map(str, blockers))
    notes: list[str] = []
    watcher = watcher_of(submissions, retry=RetryPolicy(retries=1), notes=notes)
    to_the_end(watcher)
    assert [recipe.outcome.kind for recipe in watcher.recipes] == [Outcome.COMPLETED] * 2
    assert list(watcher.suspects()) == [bad]
    assert [f"without node {bad} (2 recipes failed on it)" in note for note in notes] == [True] * 2
    for recipe in watcher.recipes:
        first, second = (job.outcome for job in recipe.jobs.values())
        assert first is not None
        assert second is not None
        assert (first.kind, first.nodes) == (Outcome.HARDWARE, (bad,))
        assert second.nodes[0] in others


def test_a_time_limit_is_named_with_the_minutes_that_would_have_sufficed(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    polite = training(tmp_path, letter="p", step_s=0.5, max_steps=600, num_minutes=1)
    deaf = training(tmp_path, "deaf", letter="d", step_s=0.5, max_steps=600, num_minutes=1)
    submit(polite)
    submit(deaf)
    recipes = to_the_end(watcher_of([polite, deaf]), limit_s=180)
    for recipe in recipes:
        outcome = recipe.outcome
        assert outcome.kind is Outcome.WALLTIME, outcome
        assert 300 < outcome.steps_missing < 570
        # only 10 steps were this job's share, 5 s of work and the margins
        assert outcome.sufficient_minutes is not None
        assert 2 <= outcome.sufficient_minutes <= 5
        assert f"NUM_MINUTES={outcome.sufficient_minutes} would have sufficed" in outcome.message
    assert recipes[0].jobs[1].report is not None
    assert recipes[0].jobs[1].report.state.value == "FAILED"
    assert recipes[1].jobs[1].report is not None
    assert recipes[1].jobs[1].report.state.value == "TIMEOUT"


def test_cancelled_jobs_are_cancelled(cluster: MiniCluster, tmp_path: Path) -> None:
    submission = training(tmp_path, step_s=0.2, max_steps=100, runs=2)
    records = submit(submission)
    wait_for_step(submission, 2)
    cluster.run("scancel", *(str(job_id(record)) for record in records))
    outcome = outcome_of(submission)
    assert (outcome.kind, outcome.message) == (Outcome.CANCELLED, "cancelled while it ran")


def test_a_job_killed_for_memory_is_told_from_a_crash(cluster: MiniCluster, tmp_path: Path) -> None:
    hungry_options = LaunchOptions(sbatch_options=("--mem=300",))
    hungry = training(tmp_path, "memory=2", letter="m", options=hungry_options)
    wrong = training(tmp_path, "assert=3", letter="w")
    submit(hungry)
    submit(wrong)
    memory, crash = (recipe.outcome for recipe in to_the_end(watcher_of([hungry, wrong])))
    assert memory.kind is Outcome.OUT_OF_MEMORY
    assert crash.kind is Outcome.CRASHED
    assert crash.message == "AssertionError: shapes differ at step 3"
    assert "stand_in_trainer.py" in crash.traceback


def test_a_hanging_trainer_is_ended_and_the_next_job_goes_on(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    submission = training(tmp_path, "hang=4", max_steps=10, runs=2)
    submit(submission)
    notes: list[str] = []
    (recipe,) = to_the_end(watcher_of([submission], hang_s=4, notes=notes))
    first, second = (job.outcome for job in recipe.jobs.values())
    assert first is not None
    assert second is not None
    assert first.kind is Outcome.HUNG
    assert "after step 4" in first.message
    assert second.kind is Outcome.COMPLETED
    assert recipe.outcome.kind is Outcome.COMPLETED
    assert trained(submission) == list(range(1, 11))
    assert any("no step for" in note for note in notes)


def test_two_launches_of_one_recipe_never_write_at_once(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    first = training(tmp_path, step_s=0.2, max_steps=20)
    submit(first)
    wait_for_step(first, 2)
    second = replace(first, launch_id="20260102T030406-other", launch_dir=tmp_path / "other")
    submit(second)
    mine, theirs = (recipe.outcome for recipe in to_the_end(watcher_of([first, second])))
    assert mine.kind is Outcome.COMPLETED
    assert trained(first) == list(range(1, 21))
    assert "another writer has this run directory: job" in theirs.message + theirs.traceback


def test_a_job_that_the_controller_forgot_is_submitted_again(
    new_cluster: ClusterMaker, tmp_path: Path
) -> None:
    cluster = new_cluster(nodes=1)
    blocker = cluster.submit("sleep 300", "--exclusive")
    cluster.wait_for(blocker, "RUNNING")
    state = cluster.dir / "state" / "job_state"
    _wait("a saved state", lambda: state.exists() and state.stat().st_size > 200, 20)
    submission = training(tmp_path)
    (record,) = submit(submission)
    cluster.kill_controller()  # before it saves the job
    cluster.start_controller()
    cluster.run("scancel", str(blocker))
    cluster.submit("exit 0", "--hold")  # gets the forgotten job's id
    (recipe,) = to_the_end(watcher_of([submission]))
    assert recipe.outcome.kind is Outcome.COMPLETED
    assert trained(submission) == list(range(1, 11))
    assert recipe.records[0].earlier_ids in ((), (record.job_id,))  # it may have been saved


def test_a_diverged_run_ends_its_chain(cluster: MiniCluster, tmp_path: Path) -> None:
    own = training(tmp_path, "nan=3", letter="o", runs=3)
    # a trainer that trains on with NaN has to be stopped from outside
    blind = training(tmp_path, "nan=3", "deaf", letter="b", step_s=0.2, max_steps=500, runs=3)
    records = [*submit(own), *submit(blind)]
    notes: list[str] = []
    for recipe in to_the_end(watcher_of([own, blind], notes=notes)):
        assert recipe.outcome.kind is Outcome.DIVERGED, recipe.outcome
    for record in records:
        cluster.wait_for(job_id(record), "CANCELLED", "FAILED")
    assert trained(own) == [1, 2]
    (note,) = [note for note in notes if "saves" in note and "sft-b" in note]
    saved = float(note.rpartition("saves ")[2].split()[0])
    assert 0.3 < saved <= 0.5  # three jobs of ten minutes on one GPU, less what was used


def test_a_loss_far_above_its_band_ends_the_run_with_a_checkpoint(
    cluster: MiniCluster, tmp_path: Path
) -> None:
    lost = training(tmp_path, "high=5", step_s=0.3, max_steps=300, runs=3)
    records = submit(lost)
    notes: list[str] = []
    band = dict.fromkeys(range(1, 301), 6.0)
    (recipe,) = to_the_end(watcher_of([lost], notes=notes, bands={lost.name: band}))
    assert recipe.outcome.kind is Outcome.DOOMED, recipe.outcome
    assert "3 steps in a row; at step 7 it is 50" in recipe.outcome.message
    assert any("saves" in note and "GPU" in note for note in notes), notes
    cluster.wait_for(job_id(records[1]), "CANCELLED")
    cluster.wait_for(job_id(records[2]), "CANCELLED")
    steps = trained(lost)
    assert steps == list(range(1, len(steps) + 1))
    assert 7 <= len(steps) < 300
    assert int((lost.run_dir / "ckpts" / "step").read_text()) == steps[-1]
