"""Reading Slurm's plain-text answers, as Slurm 22.05 really gave them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evenkeel.launch import job_report
from evenkeel.launch.job_report import SEPARATOR, JobReport, JobState


def rows(*lines: str) -> str:
    return "".join(line.replace("|", SEPARATOR) + "\n" for line in lines)


def test_squeue_rows_with_names_of_all_kinds() -> None:
    text = rows(
        "1|FAILED|NonZeroExitCode|n1|2026-11-20T10:10:44|2026-11-20T10:10:45|0:01|1:00:00|a b",
        "2|PENDING|Resources||N/A|N/A|0:00|UNLIMITED|c",
        "3_[1-4]|PENDING|Priority||N/A|N/A|0:00|1:00|array",
        "4|RUNNING|None|n[1-2]|2026-11-20T10:10:44|2026-11-22T10:10:44|1-02:03:04|2-00:00:00|d",
    )
    first, second, fourth = job_report.parse_squeue(text)
    assert first == JobReport(
        job_id=1,
        name="a b",
        state=JobState.FAILED,
        reason="NonZeroExitCode",
        nodes="n1",
        start=datetime(2026, 11, 20, 10, 10, 44),
        end=datetime(2026, 11, 20, 10, 10, 45),
        elapsed_s=1,
        limit_minutes=60,
    )
    assert (second.start, second.limit_minutes, second.nodes) == (None, None, "")
    assert (fourth.reason, fourth.elapsed_s) == ("", 93784)


def test_sacct_rows_of_a_requeued_job_keep_their_order() -> None:
    text = rows(
        "7|PENDING|0:0|n1|2026-11-20T10:10:44|2026-11-20T10:10:46|2|60|x",
        "7|COMPLETED|0:0|n2|2026-11-20T10:10:50|2026-11-20T10:11:46|56|60|x",
        "8|CANCELLED by 1000|0:15|(null)|Unknown|Unknown|0|Partition_Limit|y",
        "",
    )
    first, second, third = job_report.parse_sacct(text)
    assert [first.state, second.state] == [JobState.PENDING, JobState.COMPLETED]
    assert (third.state, third.signal, third.nodes) == (JobState.CANCELLED, 15, "")
    assert (third.start, third.limit_minutes) == (None, None)


def test_scontrol_lines_whose_values_hold_blanks() -> None:
    text = (
        "JobId=5 JobName=it's a job: 1 UserId=me(0) JobState=FAILED Reason=JobLaunchFailure "
        "Requeue=1 Restarts=2 ExitCode=0:9 RunTime=00:00:01 TimeLimit=01:00:00 StartTime=Unknown "
        "NodeList=(null) Comment=two words  StdErr=/dev/null Power=\n"
    )
    (report,) = job_report.parse_scontrol_jobs(text)
    assert report.name == "it's a job: 1"
    assert (report.exit_status, report.signal, report.restarts) == (0, 9, 2)
    assert (report.nodes, report.start, report.limit_minutes) == ("", None, 60)
    assert job_report.parse_scontrol(text)[0]["Comment"].strip() == "two words"


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("RUNNING", JobState.RUNNING),
        ("CANCELLED by 0", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        ("OUT_OF_MEMORY", JobState.OUT_OF_MEMORY),
        ("", JobState.UNKNOWN),
        ("SOMETHING_NEW", JobState.UNKNOWN),
    ],
)
def test_states(text: str, state: JobState) -> None:
    assert JobState.parse(text) is state


def test_every_state_is_final_or_waits_or_holds_nodes_or_is_unknown() -> None:
    for state in JobState:
        kinds = [state.is_final, state.is_waiting, state.holds_nodes, state is JobState.UNKNOWN]
        assert kinds.count(True) == 1, state


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:05", 5), ("1:00:00", 3600), ("2-00:00:00", 172800), ("UNLIMITED", None), ("", None)],
)
def test_durations(text: str, seconds: int | None) -> None:
    assert job_report.parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b-1", ["a", "b-1"]),
        ("n[1-3,07-08],m", ["n1", "n2", "n3", "n07", "n08", "m"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
        ("0x7f[000001-000002]", ["0x7f000001", "0x7f000002"]),
    ],
)
def test_node_lists(text: str, names: list[str]) -> None:
    assert job_report.expand_nodes(text) == names
    if shutil.which("scontrol") and text:
        shown = subprocess.run(
            ["scontrol", "show", "hostnames", text], capture_output=True, text=True
        )
        if shown.returncode == 0:
            assert shown.stdout.split() == names


@example("²", [""])  # a digit, and yet none that int() reads
@given(st.text(), st.lists(st.text(max_size=5), max_size=4))
def test_no_answer_makes_a_parser_fail(text: str, words: list[str]) -> None:
    for noise in (text, SEPARATOR.join([text, *words, text] * 3)):
        job_report.parse_squeue(noise)
        job_report.parse_sacct(noise)
        job_report.parse_scontrol_jobs(noise)


def started(second: int, state: JobState, elapsed_s: int) -> JobReport:
    start = datetime(2026, 11, 20, 10, 0, second)
    return JobReport(1, "a", state, start=start, elapsed_s=elapsed_s, earlier_s=0, exit_status=0)


def test_earlier_starts_of_a_requeued_job_count() -> None:
    # as a completion file and sacct -D showed them: the first start ended as PENDING or REQUEUED
    first = started(0, JobState.REQUEUED, 4)
    second = started(9, JobState.NODE_FAIL, 7)
    third = started(20, JobState.COMPLETED, 13)
    ended = job_report.merge(replace(third, earlier_s=None, exit_status=None), [first, third])
    assert (ended.elapsed_s, ended.earlier_s, ended.exit_status) == (13, 4, 0)
    runs = started(20, JobState.RUNNING, 5)
    for tries in ([first, second], [first, second, runs]):  # a file does not know of it yet
        found = job_report.merge(replace(runs, earlier_s=None), tries)
        assert (found.state, found.elapsed_s, found.earlier_s) == (JobState.RUNNING, 5, 11)
    waits = JobReport(1, "a", JobState.PENDING)
    assert job_report.merge(waits, [first, second]).earlier_s == 11
    assert job_report.merge(None, [first, second, third]).earlier_s == 11
    assert job_report.merge(None, [first]).state is JobState.UNKNOWN


def test_a_controller_says_nothing_of_earlier_starts() -> None:
    known = replace(started(20, JobState.COMPLETED, 13), earlier_s=None)
    assert job_report.merge(known, [known]).earlier_s is None
