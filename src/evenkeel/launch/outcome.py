"""How a job ended, decided from everything that knows something about it. Pure.

Slurm's state alone misleads: a job whose driver found a regression is FAILED, one whose script
swallowed a crash is COMPLETED, and one killed for memory looks like any kill. So the run's own
record and log decide first what they can know, and Slurm what only Slurm can know.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from evenkeel.crash_log import CrashKind, find_crash
from evenkeel.launch.job_report import JobReport, JobState, expand_nodes
from evenkeel.launch.job_script import EXIT_NO_TREE, EXIT_TOO_MANY_RESTARTS, SIGNAL_LEAD_S
from evenkeel.run_record import TrainerExit


class Outcome(enum.Enum):
    """How a job stands or ended."""

    WAITING = "waiting"
    RUNNING = "running"
    REQUEUED = "requeued"
    UNKNOWN = "unknown"
    COMPLETED = "completed"  # every step is done
    INCOMPLETE = "incomplete"  # its share is done, or it was asked to stop; steps are missing
    DIVERGED = "diverged"  # a non-finite loss
    DOOMED = "doomed"  # stopped by the watcher: the loss could not recover
    HUNG = "hung"  # stopped by the watcher: no step for too long
    WALLTIME = "walltime"
    NODE_FAILURE = "node failure"
    PREEMPTED = "preempted"
    HARDWARE = "hardware"  # device, network or file system, by the log
    OUT_OF_MEMORY = "out of memory"
    CANCELLED = "cancelled"
    CRASHED = "crashed"
    BAD_SUBMISSION = "bad submission"

    @property
    def is_final(self) -> bool:
        """Nothing more will happen to the job by itself."""
        return self not in _OPEN

    @property
    def is_infrastructure(self) -> bool:
        """The cluster failed, not the code or the recipe."""
        return self in INFRASTRUCTURE


_OPEN = {Outcome.WAITING, Outcome.RUNNING, Outcome.REQUEUED, Outcome.UNKNOWN}
INFRASTRUCTURE = frozenset({Outcome.NODE_FAILURE, Outcome.PREEMPTED, Outcome.HARDWARE})

# reasons for which a pending job will wait for ever
_NEVER_STARTS = {
    "PartitionNodeLimit": "it asks for more nodes than the partition has",
    "PartitionTimeLimit": "NUM_MINUTES is above the partition's limit",
    "PartitionConfig": "the partition cannot run it",
    "BadConstraints": "no node has what it asks for",
    "DependencyNeverSatisfied": "the job it waits for ended in a way that rules it out",
    "InvalidAccount": "the account is not valid",
    "InvalidQOS": "the quality of service is not valid",
    "QOSTimeLimit": "NUM_MINUTES is above the limit of the quality of service",
    "AssocTimeLimit": "NUM_MINUTES is above the limit of the account",
}
_HELD_BY_FAILURE = ("launch failed requeued held", "requeued in held state", "JobHoldMaxRequeue")


class StopReason(enum.Enum):
    """Why the watcher ended a job."""

    NON_FINITE = "non-finite loss"
    ABOVE_BAND = "loss above its band"
    HUNG = "no step for too long"


@dataclass(frozen=True)
class JournalEvent:
    """One line of a job's journal: ``start``, ``signal`` or ``end``."""

    event: str
    time_s: float
    job: str
    restart: int
    detail: str


@dataclass(frozen=True)
class Progress:
    """How far the run has come, by its own metrics.

    Attributes:
        last_step: the highest step with a loss; 0 before the first.
        max_steps: the step to reach.
        steps_wanted: steps this job was to do, at most.
        steps_done: steps this job did.
        step_time_s: seconds per step; None before there are two.
    """

    last_step: int
    max_steps: int
    steps_wanted: int
    steps_done: int
    step_time_s: float | None = None


@dataclass(frozen=True)
class Evidence:
    """All that is known of one job.

    Attributes:
        progress: of the run.
        report: what Slurm says; None where it does not know the job, or nobody was asked.
        refused: sbatch's words, where it refused the job.
        journal: what the job wrote down.
        attempts: entries of ``run.json`` made by this job.
        stopped: why the watcher ended it, and how it told so.
        output: the end of what the job printed.
        tree_exists: the snapshot is visible from here.
    """

    progress: Progress
    report: JobReport | None = None
    refused: str | None = None
    journal: tuple[JournalEvent, ...] = ()
    attempts: tuple[Mapping[str, object], ...] = ()
    stopped: tuple[StopReason, str] | None = None
    output: str = ""
    tree_exists: bool = True

    @property
    def exit_status(self) -> int | None:
        """Of the trainer's last start within this job; None where there was none."""
        status = self.attempts[-1].get("exit_status") if self.attempts else None
        return status if isinstance(status, int) else None

    @property
    def script_status(self) -> int | None:
        """Of the job's script, by its journal; None where it did not come to its end."""
        last = self.journal[-1] if self.journal else None
        if last is None or last.event != "end" or not last.detail.lstrip("-").isdecimal():
            return None
        return int(last.detail)


@dataclass(frozen=True)
class JobOutcome:
    """The decision.

    Attributes:
        kind: how it ended.
        message: one sentence with the reason.
        nodes: names of the nodes it had, over all its starts.
        traceback: the first real traceback of a crash; empty without one.
        steps_missing: steps of the run that are not done.
        sufficient_minutes: the NUM_MINUTES with which its share would have been done; only after
            a time limit, and where the pace is known.
    """

    kind: Outcome
    message: str
    nodes: tuple[str, ...] = ()
    traceback: str = ""
    steps_missing: int = 0
    sufficient_minutes: int | None = None


def decide(evidence: Evidence) -> JobOutcome:
    """How the job stands, or how it ended."""
    kind, message, traceback = _decide(evidence)
    progress = evidence.progress
    sufficient = sufficient_minutes(evidence) if kind is Outcome.WALLTIME else None
    missing = max(0, progress.max_steps - progress.last_step)
    if kind is Outcome.WALLTIME:
        message += f"; {missing} of {progress.max_steps} steps are missing"
        if sufficient is not None:
            message += f"; NUM_MINUTES={sufficient} would have sufficed"
    return JobOutcome(kind, message, _nodes(evidence), traceback, missing, sufficient)


def _decide(evidence: Evidence) -> tuple[Outcome, str, str]:
    if evidence.refused is not None:
        return Outcome.BAD_SUBMISSION, evidence.refused, ""
    report = evidence.report
    state = JobState.UNKNOWN if report is None else report.state
    if state.is_waiting and report is not None:
        return _waiting(report, evidence)
    if state.holds_nodes:
        return Outcome.RUNNING, "", ""
    if state is JobState.UNKNOWN and evidence.script_status is None:
        reason = "" if report is None else report.reason
        return Outcome.UNKNOWN, reason or "nobody knows this job", ""
    return _ended(state, evidence)


def _waiting(report: JobReport, evidence: Evidence) -> tuple[Outcome, str, str]:
    if any(phrase in report.reason for phrase in _HELD_BY_FAILURE):
        return Outcome.NODE_FAILURE, f"Slurm holds it back: {report.reason}", ""
    if report.reason in _NEVER_STARTS:
        why = _NEVER_STARTS[report.reason]
        return Outcome.BAD_SUBMISSION, f"it can never start: {why} ({report.reason})", ""
    if report.restarts or any(event.event == "start" for event in evidence.journal):
        return Outcome.REQUEUED, "it will start again", ""
    return Outcome.WAITING, report.reason, ""


def _ended(state: JobState, evidence: Evidence) -> tuple[Outcome, str, str]:
    progress = evidence.progress
    if evidence.stopped is not None:
        reason, words = evidence.stopped
        kinds = {StopReason.NON_FINITE: Outcome.DIVERGED, StopReason.HUNG: Outcome.HUNG}
        return kinds.get(reason, Outcome.DOOMED), words, ""
    if evidence.exit_status == TrainerExit.NON_FINITE:
        step = progress.last_step
        return Outcome.DIVERGED, f"the loss was not finite any more after step {step}", ""
    # what was cut off after the last step was only the driver's judgement
    finished = not evidence.attempts or evidence.exit_status in (None, TrainerExit.FINISHED)
    if progress.last_step >= progress.max_steps > 0 and finished:
        return Outcome.COMPLETED, f"all {progress.max_steps} steps are done", ""
    by_slurm = {
        JobState.NODE_FAIL: (Outcome.NODE_FAILURE, "a node of it failed"),
        JobState.BOOT_FAIL: (Outcome.NODE_FAILURE, "a node of it did not boot"),
        JobState.LAUNCH_FAILED: (Outcome.NODE_FAILURE, "a node could not start it"),
        JobState.PREEMPTED: (Outcome.PREEMPTED, "a job of higher priority took its nodes"),
        JobState.REVOKED: (Outcome.CANCELLED, "another cluster of the federation runs it"),
        JobState.OUT_OF_MEMORY: (Outcome.OUT_OF_MEMORY, "the memory of a node was exceeded"),
        JobState.TIMEOUT: (Outcome.WALLTIME, "the time limit ended it"),
        JobState.DEADLINE: (Outcome.WALLTIME, "its deadline ended it"),
    }
    if state in by_slurm:
        return (*by_slurm[state], "")
    if state is JobState.CANCELLED:
        began = any(event.event == "start" for event in evidence.journal)
        return Outcome.CANCELLED, "cancelled " + ("while it ran" if began else "before it ran"), ""
    return _by_status(state, evidence)


def _by_status(state: JobState, evidence: Evidence) -> tuple[Outcome, str, str]:
    """The script came to an end by itself, or was killed: FAILED, COMPLETED or forgotten."""
    progress, status = evidence.progress, evidence.script_status
    if not evidence.journal and state is not JobState.COMPLETED:
        return _never_began(evidence)
    if status == EXIT_TOO_MANY_RESTARTS:
        return Outcome.NODE_FAILURE, "it was requeued too often", ""
    if status == EXIT_NO_TREE:
        if evidence.tree_exists:
            return Outcome.NODE_FAILURE, "the snapshot could not be seen from its node", ""
        return Outcome.BAD_SUBMISSION, "its snapshot is gone", ""
    asked = any(event.event == "signal" and event.detail == "USR1" for event in evidence.journal)
    if evidence.exit_status == TrainerExit.STOPPED and asked:
        return Outcome.WALLTIME, "it saved and ended just before its time limit", ""
    if evidence.exit_status in (TrainerExit.FINISHED, TrainerExit.STOPPED):
        steps = f"step {progress.last_step} of {progress.max_steps}"
        return Outcome.INCOMPLETE, f"its share is done: {steps}", ""
    return _crashed(evidence)


def _never_began(evidence: Evidence) -> tuple[Outcome, str, str]:
    report = evidence.report
    if report is not None and report.signal == 53:
        return Outcome.BAD_SUBMISSION, "its output file could not be written", ""
    reason = report.reason if report is not None else ""
    return Outcome.NODE_FAILURE, f"its script was never started ({reason or 'no reason given'})", ""


def _crashed(evidence: Evidence) -> tuple[Outcome, str, str]:
    crash = find_crash(evidence.output)
    killed = evidence.report is not None and evidence.report.signal == 9
    if crash is None:
        if evidence.exit_status is None and evidence.script_status == 0:
            return Outcome.INCOMPLETE, "its script ended well and trained nothing", ""
        status = evidence.script_status if evidence.exit_status is None else evidence.exit_status
        how = "it was killed (SIGKILL)" if killed else f"it ended with status {status}"
        return Outcome.CRASHED, f"{how} and printed no reason", ""
    if crash.kind is CrashKind.HOST_MEMORY:
        return Outcome.OUT_OF_MEMORY, crash.headline, crash.text
    if crash.kind is CrashKind.DEVICE_MEMORY:
        return Outcome.OUT_OF_MEMORY, f"on the device: {crash.headline}", crash.text
    if crash.kind is CrashKind.HARDWARE:
        return Outcome.HARDWARE, crash.headline, crash.text
    who = f" ({crash.rank})" if crash.rank else ""
    return Outcome.CRASHED, f"{crash.headline}{who}", crash.text


def sufficient_minutes(evidence: Evidence) -> int | None:
    """NUM_MINUTES in which the job's share would have been done, with a tenth to spare."""
    progress, report = evidence.progress, evidence.report
    if report is None or progress.step_time_s is None or progress.steps_done < 1:
        return None
    around_s = max(0.0, report.elapsed_s - progress.steps_done * progress.step_time_s)
    steps = min(progress.steps_wanted, progress.max_steps)
    needed_s = around_s + steps * progress.step_time_s
    return math.ceil((1.1 * needed_s + SIGNAL_LEAD_S) / 60)


def _nodes(evidence: Evidence) -> tuple[str, ...]:
    lists = [event.detail for event in evidence.journal if event.event == "start"]
    if evidence.report is not None:
        lists.append(evidence.report.nodes)
    return tuple(dict.fromkeys(node for text in lists for node in expand_nodes(text)))


def parse_journal(text: str) -> tuple[JournalEvent, ...]:
    """The lines of a journal; one that is not whole (the node died) is left out."""
    events = []
    for line in text.split("\n"):
        fields = line.split("\t")
        if len(fields) == 5 and fields[1].isdecimal() and fields[3].isdecimal():
            events.append(
                JournalEvent(fields[0], float(fields[1]), fields[2], int(fields[3]), fields[4])
            )
    return tuple(events)
