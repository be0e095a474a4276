"""What a watcher knows of one recipe: its jobs, how its run goes, and the row that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evenkeel.launch.evidence import gather, read_journal
from evenkeel.launch.job_report import JobReport
from evenkeel.launch.job_script import job_files
from evenkeel.launch.outcome import Evidence, JobOutcome, Outcome
from evenkeel.launch.request import Submission
from evenkeel.launch.run_progress import RunProgress
from evenkeel.launch.submission import JobRecord, read_records
from evenkeel.run_paths import RunPaths


@dataclass(frozen=True)
class Row:
    """One recipe as it stands, ready to show.

    Attributes:
        recipe: its name.
        job_id: of the job that matters now; None where there is none.
        run, runs: which job of the chain that is, and how many there are.
        state: Slurm's word, or ours where Slurm has none.
        reason: why it waits or ended.
        step, max_steps: how far the run is.
        step_time_s: seconds per step; None before there are two.
        left_s: seconds until the last step at that pace; None where unknown.
        loss: of the last step.
        gpu_hours: that its jobs have held so far.
        outcome: how the recipe stands.
        paths: the files of its run.
        is_finished: it did all its steps, and that is all that is asked of it: its verdict says
            nothing.
    """

    recipe: str
    job_id: int | None
    run: int
    runs: int
    state: str
    reason: str
    step: int
    max_steps: int
    step_time_s: float | None
    left_s: float | None
    loss: float | None
    gpu_hours: float
    outcome: JobOutcome
    paths: RunPaths
    is_finished: bool = False

    @property
    def is_done(self) -> bool:
        """Nothing of this recipe will run any more."""
        return self.outcome.kind.is_final


@dataclass
class WatchedJob:
    """What is remembered of a job between two looks."""

    outcome: JobOutcome | None = None  # the final one
    report: JobReport | None = None
    missing_since: float | None = None
    starts: tuple[float, ...] = ()  # of all its tries, in seconds since the epoch


class RecipeWatch:
    """One recipe of the launch."""

    def __init__(self, submission: Submission, upper: Mapping[int, float]) -> None:
        self.submission = submission
        self.paths = RunPaths(submission.run_dir)
        self.progress = RunProgress(self.paths)
        self.upper = upper
        self.records: list[JobRecord] = []
        self.jobs: dict[int, WatchedJob] = {}
        self.outcome = JobOutcome(Outcome.WAITING, "")

    def refresh(self) -> None:
        """Read which jobs there are by now, of those from the submission's first one on."""
        records = read_records(self.submission)
        self.records = [one for one in records if one.run >= self.submission.first_run]
        for record in self.records:
            job = self.jobs.setdefault(record.run, WatchedJob())
            if job.report is not None and job.report.job_id != record.job_id:
                job = self.jobs[record.run] = WatchedJob()  # submitted again under another id
            if job.outcome is None:
                journal = read_journal(job_files(self.submission, record.run).journal)
                job.starts = tuple(event.time_s for event in journal if event.event == "start")

    def open_jobs(self) -> dict[int, str]:
        """Id → name of the jobs that Slurm has to be asked about."""
        return {
            record.job_id: record.name
            for record in self.records
            if record.job_id is not None and self.jobs[record.run].outcome is None
        }

    def restarted_jobs(self) -> list[int]:
        """Ids of those whose earlier tries have to be asked for."""
        return [
            record.job_id
            for record in self.records
            if record.job_id is not None and len(self.jobs[record.run].starts) > 1
        ]

    @property
    def current(self) -> JobRecord | None:
        """The first job that has not ended; once all have, the one that tells the recipe's end."""
        if self.outcome.kind.is_final:
            for record in self.records:
                if self.jobs[record.run].outcome is self.outcome:
                    return record
        for record in self.records:
            if self.jobs[record.run].outcome is None:
                return record
        return self.records[-1] if self.records else None

    def evidence(self, record: JobRecord, report: JobReport | None) -> Evidence:
        """What is known of a job, with the progress of its run."""
        shape = self.submission.shape
        began = self.began(record, report)
        starts = {start for job in self.jobs.values() for start in job.starts}
        self.progress.poll(sorted(starts or {began}))
        ended = report is None or report.state.is_final
        progress = self.progress.of_job(began, shape.max_steps, shape.steps_per_run)
        return gather(self.submission, record, report, progress, with_output=ended)

    def began(self, record: JobRecord, report: JobReport | None) -> float:
        """When the job last started, in seconds since the epoch; 0: it has not."""
        if starts := self.jobs[record.run].starts:
            return starts[-1]
        waits = report is None or report.state.is_waiting
        start = None if waits or report is None else report.start
        return start.timestamp() if start else 0.0

    @property
    def gpu_hours(self) -> float:
        """That its jobs have held over all their tries.

        Where no account remembers the earlier tries of a requeued job, each counts until the last
        step that it logged: at least that long it held its nodes.
        """
        shape = self.submission.shape
        seconds = sum(map(self._held_s, self.jobs.values()))
        return seconds / 3600 * shape.num_nodes * shape.gpus_per_node

    def _held_s(self, job: WatchedJob) -> float:
        if job.report is None:
            return 0.0
        if job.report.earlier_s is not None:
            return job.report.elapsed_s + job.report.earlier_s
        return job.report.elapsed_s + sum(map(self.progress.seen_alive_s, job.starts[:-1]))

    def row(self) -> Row:
        """How it stands, ready to show."""
        shape, progress = self.submission.shape, self.progress
        record = self.current
        planned = self.submission.first_run + self.submission.runs - 1
        report = self.jobs[record.run].report if record else None
        waiting = report is None or not report.state.holds_nodes
        pace = progress.step_time_s
        left = None if pace is None else pace * max(0, shape.max_steps - progress.last_step)
        state = self.outcome.kind.value.upper() if report is None else report.state.value
        return Row(
            recipe=self.submission.label,
            job_id=record.job_id if record else None,
            run=record.run if record else 0,
            runs=max(planned, record.run if record else 0),
            state=state,
            reason=self.outcome.message or (report.reason if report else ""),
            step=progress.last_step,
            max_steps=shape.max_steps,
            step_time_s=None if waiting else pace,
            left_s=None if waiting else left,
            loss=progress.last.loss if progress.last else None,
            gpu_hours=self.gpu_hours,
            outcome=self.outcome,
            paths=self.paths,
        )
