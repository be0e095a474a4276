"""How a job ended: Slurm's word against the run's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evenkeel.launch.chain_outcome import RetryPolicy, of_chain, suspect_nodes
from evenkeel.launch.job_report import JobReport, JobState
from evenkeel.launch.outcome import (
    Evidence,
    JobOutcome,
    JournalEvent,
    Outcome,
    Progress,
    StopReason,
    decide,
    parse_journal,
)

PROGRESS = Progress(last_step=40, max_steps=100, steps_wanted=100, steps_done=40, step_time_s=6.0)
DONE = replace(PROGRESS, last_step=100)
TRACEBACK = "Traceback (most recent call last):\n  File 'x'\nAssertionError: no\n"


def report(state: str, **more: object) -> JobReport:
    return JobReport(1, "job", JobState(state), **more)  # type: ignore[arg-type]


def journal(*events: str) -> tuple[JournalEvent, ...]:
    """A journal of events such as ``end 1``."""
    words = [event.partition(" ") for event in events]
    lines = [f"{event}\t{100 + n}\t1\t0\t{detail}\n" for n, (event, _, detail) in enumerate(words)]
    return parse_journal("".join(lines))


RAN = journal("start n1")


def attempt(status: int | None) -> tuple[dict[str, object], ...]:
    return ({"exit_status": status},)


CASES: list[tuple[str, Evidence, Outcome, str]] = [
    (
        "refused",
        Evidence(PROGRESS, refused="invalid partition"),
        Outcome.BAD_SUBMISSION,
        "invalid partition",
    ),
    ("in the queue", Evidence(PROGRESS, report("PENDING", reason="Priority")), Outcome.WAITING, ""),
    (
        "for ever in the queue",
        Evidence(PROGRESS, report("PENDING", reason="PartitionNodeLimit")),
        Outcome.BAD_SUBMISSION,
        "can never start",
    ),
    (
        "held after its prolog failed",
        Evidence(PROGRESS, report("PENDING", reason="launch failed requeued held")),
        Outcome.NODE_FAILURE,
        "holds it back",
    ),
    (
        "requeued",
        Evidence(PROGRESS, report("PENDING", reason="BeginTime"), journal=RAN),
        Outcome.REQUEUED,
        "again",
    ),
    ("runs", Evidence(PROGRESS, report("RUNNING"), journal=RAN), Outcome.RUNNING, ""),
    ("ends", Evidence(PROGRESS, report("COMPLETING"), journal=RAN), Outcome.RUNNING, ""),
    ("nobody knows it", Evidence(PROGRESS), Outcome.UNKNOWN, "nobody"),
    (
        "forgotten by Slurm, remembered by its journal",
        Evidence(DONE, journal=journal("start n1", "end 0"), attempts=attempt(0)),
        Outcome.COMPLETED,
        "100 steps",
    ),
    (
        "a finding of the driver is no failure of the job",
        Evidence(
            DONE,
            report("FAILED", exit_status=1),
            journal=journal("start n1", "end 1"),
            attempts=attempt(0),
        ),
        Outcome.COMPLETED,
        "",
    ),
    (
        "cut off while it was judged",
        Evidence(DONE, report("TIMEOUT"), journal=RAN, attempts=attempt(0)),
        Outcome.COMPLETED,
        "",
    ),
    (
        "its share",
        Evidence(
            PROGRESS,
            report("FAILED", exit_status=1),
            journal=journal("start n1", "end 1"),
            attempts=attempt(0),
        ),
        Outcome.INCOMPLETE,
        "step 40 of 100",
    ),
    (
        "diverged",
        Evidence(
            PROGRESS, report("FAILED"), journal=journal("start n1", "end 1"), attempts=attempt(76)
        ),
        Outcome.DIVERGED,
        "after step 40",
    ),
    (
        "diverged on the last step",
        Evidence(
            DONE, report("FAILED"), journal=journal("start n1", "end 1"), attempts=attempt(76)
        ),
        Outcome.DIVERGED,
        "",
    ),
    (
        "stopped before its limit",
        Evidence(
            PROGRESS,
            report("FAILED", elapsed_s=300),
            journal=journal("start n1", "signal USR1", "end 1"),
            attempts=attempt(75),
        ),
        Outcome.WALLTIME,
        "NUM_MINUTES=15",
    ),
    (
        "asked to stop by a person",
        Evidence(
            PROGRESS, report("FAILED"), journal=journal("start n1", "end 1"), attempts=attempt(75)
        ),
        Outcome.INCOMPLETE,
        "",
    ),
    ("time limit", Evidence(PROGRESS, report("TIMEOUT"), journal=RAN), Outcome.WALLTIME, "60 of"),
    ("node", Evidence(PROGRESS, report("NODE_FAIL"), journal=RAN), Outcome.NODE_FAILURE, ""),
    ("preempted", Evidence(PROGRESS, report("PREEMPTED"), journal=RAN), Outcome.PREEMPTED, ""),
    ("memory", Evidence(PROGRESS, report("OUT_OF_MEMORY"), journal=RAN), Outcome.OUT_OF_MEMORY, ""),
    (
        "memory, by the log",
        Evidence(
            PROGRESS,
            report("FAILED", signal=9),
            journal=RAN,
            output="slurmstepd-n1: error: Exceeded job memory limit\n",
        ),
        Outcome.OUT_OF_MEMORY,
        "memory limit",
    ),
    (
        "killed by somebody",
        Evidence(PROGRESS, report("FAILED", signal=9), journal=RAN),
        Outcome.CRASHED,
        "SIGKILL",
    ),
    (
        "cancelled before it ran",
        Evidence(PROGRESS, report("CANCELLED")),
        Outcome.CANCELLED,
        "before it ran",
    ),
    (
        "a crash whose script swallowed it",
        Evidence(
            PROGRESS,
            report("COMPLETED", exit_status=0),
            journal=journal("start n1", "end 0"),
            attempts=attempt(1),
            output=TRACEBACK,
        ),
        Outcome.CRASHED,
        "AssertionError: no",
    ),
    (
        "a script that did nothing",
        Evidence(PROGRESS, report("COMPLETED"), journal=journal("start n1", "end 0")),
        Outcome.INCOMPLETE,
        "trained nothing",
    ),
    (
        "a card that fell off",
        Evidence(
            PROGRESS,
            report("FAILED"),
            journal=journal("start n1", "end 1"),
            attempts=attempt(1),
            output=TRACEBACK.replace("AssertionError: no", "RuntimeError: uncorrectable ECC error"),
        ),
        Outcome.HARDWARE,
        "ECC",
    ),
    (
        "a card that fell off, and nobody printed a traceback",
        Evidence(
            PROGRESS,
            report("FAILED"),
            journal=journal("start n1", "end 1"),
            attempts=attempt(1),
            output="step 40\nNVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.\n",
        ),
        Outcome.HARDWARE,
        "Xid (PCI:0000:3b:00): 79",
    ),
    (
        "no place for its output",
        Evidence(PROGRESS, report("FAILED", exit_status=0, signal=53)),
        Outcome.BAD_SUBMISSION,
        "output file",
    ),
    (
        "never started",
        Evidence(PROGRESS, report("FAILED", reason="JobLaunchFailure")),
        Outcome.NODE_FAILURE,
        "JobLaunchFailure",
    ),
    (
        "requeued too often",
        Evidence(PROGRESS, report("FAILED"), journal=journal("end 92")),
        Outcome.NODE_FAILURE,
        "too often",
    ),
    (
        "snapshot not mounted",
        Evidence(PROGRESS, report("FAILED"), journal=journal("end 91")),
        Outcome.NODE_FAILURE,
        "could not be seen",
    ),
    (
        "snapshot removed",
        Evidence(PROGRESS, report("FAILED"), journal=journal("end 91"), tree_exists=False),
        Outcome.BAD_SUBMISSION,
        "gone",
    ),
    (
        "hung",
        Evidence(PROGRESS, report("CANCELLED"), journal=RAN, stopped=(StopReason.HUNG, "no step")),
        Outcome.HUNG,
        "no step",
    ),
    (
        "lost",
        Evidence(
            PROGRESS, report("CANCELLED"), journal=RAN, stopped=(StopReason.ABOVE_BAND, "above")
        ),
        Outcome.DOOMED,
        "above",
    ),
]


@pytest.mark.parametrize(
    ("evidence", "kind", "words"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_how_a_job_ended(evidence: Evidence, kind: Outcome, words: str) -> None:
    outcome = decide(evidence)
    assert outcome.kind is kind, outcome
    assert words in outcome.message


def test_nodes_of_all_starts_are_kept() -> None:
    events = journal("start n[1-2]", "start n3")
    outcome = decide(Evidence(PROGRESS, report("NODE_FAIL", nodes="n3"), journal=events))
    assert outcome.nodes == ("n1", "n2", "n3")


def test_a_journal_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    text = "start\t100\t1\t0\tn1\nsignal\t101\t1\t0\tUSR1\nend\t10"
    assert [event.event for event in parse_journal(text)] == ["start", "signal"]
    assert parse_journal("\0\0\0") == ()


def test_only_the_cluster_s_failures_can_be_retried() -> None:
    policy = RetryPolicy(retries=2)
    for kind in Outcome:
        outcome = JobOutcome(kind, "")
        tries = [policy.wants(outcome, tries) for tries in (1, 2, 3)]
        expected = [True, True, False] if kind.is_infrastructure else [False] * 3
        assert tries == expected, kind
    with pytest.raises(ValueError, match="crashed, diverged"):
        RetryPolicy(kinds=frozenset({Outcome.CRASHED, Outcome.DIVERGED}))
    only = RetryPolicy(kinds=frozenset({Outcome.PREEMPTED}))
    assert not only.wants(JobOutcome(Outcome.NODE_FAILURE, ""), 1)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([], Outcome.UNKNOWN),
        ([Outcome.WALLTIME, Outcome.COMPLETED], Outcome.COMPLETED),
        ([Outcome.COMPLETED, Outcome.CANCELLED], Outcome.COMPLETED),
        ([Outcome.CRASHED, Outcome.RUNNING, Outcome.WAITING], Outcome.RUNNING),
        ([Outcome.INCOMPLETE, Outcome.WALLTIME], Outcome.WALLTIME),
        ([Outcome.NODE_FAILURE, Outcome.CANCELLED], Outcome.NODE_FAILURE),
        ([Outcome.CANCELLED, Outcome.CANCELLED], Outcome.CANCELLED),
        ([Outcome.DIVERGED, Outcome.CRASHED], Outcome.DIVERGED),
        ([Outcome.HUNG, Outcome.COMPLETED], Outcome.COMPLETED),
        ([Outcome.CRASHED, Outcome.INCOMPLETE], Outcome.CRASHED),
    ],
)
def test_a_chain_s_outcome(kinds: list[Outcome], expected: Outcome) -> None:
    assert of_chain([JobOutcome(kind, "") for kind in kinds]).kind is expected


def test_a_node_that_failed_several_recipes_is_named() -> None:
    def failed(kind: Outcome, *nodes: str) -> list[JobOutcome]:
        return [JobOutcome(kind, "", nodes)]

    failures = {
        "a": failed(Outcome.NODE_FAILURE, "n1", "n2"),
        "b": failed(Outcome.HARDWARE, "n2", "n3"),
        "c": failed(Outcome.CRASHED, "n3"),
        "d": failed(Outcome.PREEMPTED, "n3"),
    }
    assert suspect_nodes(failures) == {"n2": ["a", "b"]}
