"""Watching a launch: what each job does, how each run goes, and what has to be done about it.

Everything is read again from Slurm, the job records and the runs' own files at every look, so a
watcher can be killed and started again at any time, and several may watch at once. One look costs
one ``squeue`` and at most one look into the accounts, however many jobs there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from evenkeel.launch.chain_outcome import RetryPolicy, of_chain, suspect_nodes
from evenkeel.launch.cluster import Cluster, ClusterUnreachableError
from evenkeel.launch.evidence import local_report, read_journal
from evenkeel.launch.intervention import Intervention
from evenkeel.launch.job_report import JobReport, JobState
from evenkeel.launch.job_script import job_files
from evenkeel.launch.outcome import JobOutcome, Outcome, decide
from evenkeel.launch.recipe_watch import RecipeWatch, Row, WatchedJob
from evenkeel.launch.request import ExecutorKind, Submission
from evenkeel.launch.run_progress import DoomPolicy, doom, hang
from evenkeel.launch.submission import JobRecord, SubmitState


@dataclass(frozen=True)
class WatchPolicy:
    """How patient a watcher is, and what it may do.

    Attributes:
        retry: which failures get another job.
        doom: when a run is ended early.
        forgotten_s: seconds for which nobody may know a job before it counts as lost.
        grace_s: seconds between asking a job to stop and cancelling it.
        exclude_suspects: a retry leaves out nodes on which several recipes failed.
    """

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    doom: DoomPolicy = field(default_factory=DoomPolicy)
    forgotten_s: float = 60.0
    grace_s: float = 120.0
    exclude_suspects: bool = True


class Watcher:
    """Looks at all recipes of a launch.

    Args:
        submissions: the recipes.
        cluster: where their jobs run.
        policy: how patient to be.
        act: what is done about a run that is lost or failed; None: only look.
        upper: recipe → upper edge of its loss's band by step.
        being_submitted: whether a launcher is at work on the launch, so that jobs which are not
            there yet will come.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        submissions: Sequence[Submission],
        cluster: Cluster,
        policy: WatchPolicy | None = None,
        *,
        act: Intervention | None = None,
        upper: Mapping[str, Mapping[int, float]] | None = None,
        being_submitted: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        bands = upper or {}
        self.recipes = [RecipeWatch(one, bands.get(one.name, {})) for one in submissions]
        self._cluster = cluster
        self._policy = policy or WatchPolicy()
        self._act = act
        self._being_submitted = being_submitted
        self._clock = clock
        self.trouble: str | None = None
        """Why the last look saw nothing of the cluster; None when it did."""

    def add(self, submission: Submission) -> None:
        """Look at one more from now on."""
        self.recipes.append(RecipeWatch(submission, {}))

    @property
    def is_done(self) -> bool:
        """Every recipe has its last outcome."""
        return all(recipe.outcome.kind.is_final for recipe in self.recipes)

    def poll(self) -> list[Row]:
        """Look once; a row per recipe, in the order of the launch."""
        expected: dict[int, str] = {}
        restarted: set[int] = set()
        for recipe in self._open():
            recipe.refresh()
            expected |= recipe.open_jobs()
            restarted.update(recipe.restarted_jobs())
        reports: dict[int, JobReport] | None = {}
        self.trouble = None
        try:
            reports = self._cluster.reports(expected, restarted) if expected else {}
        except ClusterUnreachableError as error:
            reports, self.trouble = None, error.message
        # all first, then what is done about them: a node is suspect by what it did to several
        seen = [(recipe, self._look(recipe, reports)) for recipe in self._open()]
        for recipe, outcomes in seen:
            self._follow_up(recipe, outcomes)
        return [recipe.row() for recipe in self.recipes]

    def suspects(self) -> dict[str, list[str]]:
        """Nodes on which several recipes of the launch failed: node → recipes."""
        return suspect_nodes(
            {
                recipe.submission.label: [
                    job.outcome for job in recipe.jobs.values() if job.outcome
                ]
                for recipe in self.recipes
            }
        )

    def _open(self) -> list[RecipeWatch]:
        return [recipe for recipe in self.recipes if not recipe.outcome.kind.is_final]

    def _look(
        self, recipe: RecipeWatch, reports: Mapping[int, JobReport] | None
    ) -> list[JobOutcome]:
        outcomes = []
        for record in recipe.records:
            job = recipe.jobs[record.run]
            if job.outcome is None:
                outcomes.append(self._look_at_job(recipe, record, job, reports))
            else:
                outcomes.append(job.outcome)
        planned = recipe.submission.first_run + recipe.submission.runs - 1
        refused = any(record.state is SubmitState.REFUSED for record in recipe.records)
        if (recipe.records[-1].run if recipe.records else 0) < planned and not refused:
            outcomes.append(self._not_submitted(recipe))
        recipe.outcome = of_chain(outcomes)
        return outcomes

    def _follow_up(self, recipe: RecipeWatch, outcomes: Sequence[JobOutcome]) -> None:
        outcome = recipe.outcome
        if self._act is None:
            return
        if outcome.kind in (Outcome.COMPLETED, Outcome.DIVERGED, Outcome.DOOMED):
            self._act.cancel_waiting(recipe.submission, recipe.records)
        elif outcome.kind.is_final and self._may_retry(recipe, outcome, outcomes):
            suspects = self.suspects() if self._policy.exclude_suspects else {}
            self._act.retry(recipe.submission, recipe.records, suspects)
            again = JobOutcome(Outcome.REQUEUED, f"tried again after: {outcome.message}")
            recipe.outcome = again

    def _look_at_job(
        self,
        recipe: RecipeWatch,
        record: JobRecord,
        job: WatchedJob,
        reports: Mapping[int, JobReport] | None,
    ) -> JobOutcome:
        report = self._report(recipe, record, job, reports)
        is_current = record is recipe.current
        if report is not None and report.state.is_waiting and not is_current:
            return JobOutcome(Outcome.WAITING, report.reason)
        outcome = decide(recipe.evidence(record, report))
        if outcome.kind is Outcome.UNKNOWN and reports is not None:
            outcome = self._unknown(recipe, record, job, outcome)
        elif outcome.kind is not Outcome.UNKNOWN:
            job.missing_since = None
        if outcome.kind is Outcome.RUNNING:
            self._check_health(recipe, record, report)
        if outcome.kind.is_final and reports is not None:
            job.outcome = outcome
        return outcome

    def _report(
        self,
        recipe: RecipeWatch,
        record: JobRecord,
        job: WatchedJob,
        reports: Mapping[int, JobReport] | None,
    ) -> JobReport | None:
        if recipe.submission.options.executor is ExecutorKind.LOCAL:
            job.report = local_report(recipe.submission, record)
        elif reports is not None and record.job_id is not None:
            found = reports.get(record.job_id)
            if found is None or found.state is JobState.UNKNOWN:
                return found
            job.report = found
        return job.report

    def _unknown(
        self, recipe: RecipeWatch, record: JobRecord, job: WatchedJob, outcome: JobOutcome
    ) -> JobOutcome:
        """Nobody knows the job: wait a while, then it was forgotten or lost."""
        job.missing_since = job.missing_since or self._clock()
        if self._clock() - job.missing_since < self._policy.forgotten_s:
            return outcome
        began = read_journal(job_files(recipe.submission, record.run).journal)
        if self._act is not None and not began and self._is_recent(record):
            self._act.submit_forgotten(recipe.submission, record)
            job.missing_since = None
            return JobOutcome(Outcome.WAITING, "Slurm had forgotten it; submitted again")
        what = "it left no end" if began else "it never began"
        return JobOutcome(Outcome.NODE_FAILURE, f"Slurm does not know it any more, and {what}")

    def _not_submitted(self, recipe: RecipeWatch) -> JobOutcome:
        if self._being_submitted():
            return JobOutcome(Outcome.WAITING, "being submitted")
        return JobOutcome(
            Outcome.BAD_SUBMISSION,
            "it was never submitted: its launcher ended before; go on with tools/launch --resume",
        )

    def _may_retry(
        self, recipe: RecipeWatch, outcome: JobOutcome, outcomes: Sequence[JobOutcome]
    ) -> bool:
        failed = sum(one.kind in self._policy.retry.kinds for one in outcomes)
        last = recipe.records[-1] if recipe.records else None
        recent = last is not None and self._is_recent(last)
        return recent and self._policy.retry.wants(outcome, failed)

    def _is_recent(self, record: JobRecord) -> bool:
        """A watcher that looks at last month's launch must not submit anything."""
        try:
            age_s = self._clock() - datetime.fromisoformat(record.time).timestamp()
        except ValueError:
            return False
        return age_s < 14 * 24 * 3600

    def _check_health(
        self, recipe: RecipeWatch, record: JobRecord, report: JobReport | None
    ) -> None:
        progress, policy = recipe.progress, self._policy.doom
        began = recipe.began(record, report)
        last = progress.last_of_job
        steps = [step for step in progress.recent if step.wall_time >= began]
        found = doom(steps, recipe.upper, policy)
        if found is None and began:
            found = hang(self._clock(), began, last, policy)
        if found is not None and self._act is not None:
            reason, message = found
            self._act.stop(
                recipe.submission, record, recipe.records, report, reason, message, steps
            )
