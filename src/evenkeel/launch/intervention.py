"""What a watcher does about a run: end it, cancel what would follow, submit it again."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar

from evenkeel import atomic_file
from evenkeel.errors import EvenkeelError, MachineError
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.evidence import read_stopped, stopped_path, write_stopped
from evenkeel.launch.executor import SlurmSubmitter
from evenkeel.launch.job_report import JobReport, JobState
from evenkeel.launch.outcome import StopReason
from evenkeel.launch.request import Submission
from evenkeel.launch.run_progress import Step
from evenkeel.launch.submission import JobRecord, submit_chain, submit_forgotten
from evenkeel.run_paths import RunPaths

T = TypeVar("T")


class Intervention:
    """Acts on the cluster. Every request may come again at the next look.

    Args:
        cluster: where the jobs run.
        grace_s: seconds between asking a job to stop and cancelling it.
        say: takes a line for each thing that is done.
    """

    def __init__(
        self, cluster: Cluster, grace_s: float, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._cluster = cluster
        self._grace_s = grace_s
        self._say = say
        self._done: set[str] = set()

    def stop(
        self,
        submission: Submission,
        record: JobRecord,
        records: Sequence[JobRecord],
        report: JobReport | None,
        reason: StopReason,
        message: str,
        steps: Sequence[Step],
    ) -> None:
        """Ask the trainer to save and end; cancel the job when it has not done so in time.

        What is behind it in the chain is cancelled, too, unless it only hung: then the next job
        goes on from the last checkpoint.
        """
        if read_stopped(submission, record.run) is None:
            rest = [one for one in records if one.run > record.run]
            lost = reason is not StopReason.HUNG
            saved = _gpu_hours_left(submission, report, len(rest) if lost else 0)
            evidence = {
                "gpu_hours_saved": round(saved, 3),
                "steps": [[step.step, repr(step.loss)] for step in steps],
            }
            write_stopped(submission, record.run, reason, message, evidence)
            atomic_file.write_text(RunPaths(submission.run_dir).stop_request, message + "\n")
            self._say(f"{submission.label}: ending it: {message}; saves {saved:.2f} GPU-hours")
            if lost:
                self.cancel_waiting(submission, rest)
        age_s = time.time() - stopped_path(submission, record.run).stat().st_mtime
        if age_s >= self._grace_s:
            self._once(f"cancel {record.name}", partial(self._cluster.cancel, [record.name]))

    def cancel_waiting(self, submission: Submission, records: Sequence[JobRecord]) -> None:
        """Cancel by name and only while pending: a job that has started ends by itself."""
        for record in records:
            if record.job_id is not None:
                cancel = partial(self._cluster.cancel, [record.name], state=JobState.PENDING)
                self._once(f"cancel pending {record.name}", cancel)

    def retry(
        self,
        submission: Submission,
        records: Sequence[JobRecord],
        suspects: Mapping[str, Sequence[str]],
    ) -> None:
        """One more job, with a number and a name of its own; the earlier ones stay on record.

        Args:
            submission: the recipe.
            records: its jobs so far.
            suspects: node → recipes that failed on it; left out where enough others are left.
        """
        run = records[-1].run + 1
        options = submission.options
        try:
            left_out = self._without(submission, suspects) if suspects else []
        except EvenkeelError as error:
            self._say(f"{submission.label}: no node is left out: {error.message}")
            left_out = []
        words = f"{submission.label}: trying again as job {run} of its chain"
        if left_out:
            failed = (f"{node} ({len(suspects[node])} recipes failed on it)" for node in left_out)
            words += f", without node {', '.join(failed)}"
            options = replace(options, exclude_nodes=(*options.exclude_nodes, *left_out))
        self._say(words)
        again = replace(submission, first_run=run, runs=1, options=options)
        self._attempt(partial(_apart, _submit, again))

    def _without(self, submission: Submission, suspects: Mapping[str, Sequence[str]]) -> list[str]:
        """The suspects that the job can do without, those with most failures first."""
        options, shape = submission.options, submission.shape
        gpus = None if options.exclude_gres else shape.gpus_per_node
        usable = set(self._cluster.usable_nodes(options.partition, gpus))
        usable -= set(options.exclude_nodes)
        left_out = []
        for node in sorted(suspects, key=lambda node: -len(suspects[node])):
            if node in options.exclude_nodes:
                continue
            if len(usable - {node}) >= shape.num_nodes:
                usable.discard(node)
                left_out.append(node)
        return left_out

    def submit_forgotten(self, submission: Submission, record: JobRecord) -> None:
        """The same job again, under a new id; its twin, should it turn up, ends at once."""
        self._say(f"{submission.label}: Slurm does not know job {record.job_id}: submitting again")
        self._attempt(partial(_apart, _submit_again, submission, record.run))

    def _attempt(self, act: Callable[[], object]) -> None:
        """A controller that is away must not end the watching: it is asked again later."""
        try:
            act()
        except EvenkeelError as error:
            self._say(error.message)

    def _once(self, key: str, act: Callable[[], None]) -> None:
        """Requests come at every look; one that failed is tried again at the next."""
        if key in self._done:
            return
        try:
            act()
        except EvenkeelError as error:
            self._say(f"{key}: {error.message}")
        else:
            self._done.add(key)


def _gpu_hours_left(submission: Submission, report: JobReport | None, jobs_behind: int) -> float:
    """GPU-hours that were asked for and will not be used."""
    shape = submission.shape
    used_s = report.elapsed_s if report is not None else 0
    left_minutes = max(0.0, shape.num_minutes - used_s / 60) + jobs_behind * shape.num_minutes
    return left_minutes / 60 * shape.num_nodes * shape.gpus_per_node


def submit_apart(submission: Submission) -> list[JobRecord]:
    """Submit what is not submitted yet of a chain, in a process of its own.

    Raises:
        MachineError: the cluster gave no answer; call it again later.
    """
    return _apart(_submit, submission)


def _submit(submission: Submission) -> list[JobRecord]:
    return submit_chain(submission, SlurmSubmitter(), Cluster())


def _submit_again(submission: Submission, run: int) -> JobRecord:
    return submit_forgotten(submission, run, SlurmSubmitter(), Cluster())


def _apart(function: Callable[..., T], *arguments: object) -> T:
    """Call it in another process: submitting loads nemo_run, with hundreds of MB.

    The process ends by itself after the call, also when the watcher has died meanwhile.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = MachineError(f"{function.__name__} died without an answer")
    finally:
        process.join()
        receiver.close()
    if isinstance(result, BaseException):
        raise result
    return result  # type: ignore[no-any-return]


def _answer(sender: Connection, function: Callable[..., object], arguments: tuple[object]) -> None:
    try:
        answer = function(*arguments)
    except EvenkeelError as error:
        answer = MachineError(error.message)
    with contextlib.suppress(BrokenPipeError):
        sender.send(answer)
