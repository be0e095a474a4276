"""What Slurm says about a job, read from the plain-text output of its commands. Pure.

Only ``-o`` formats and ``scontrol -o`` are read, which stay the same between Slurm's versions;
its JSON does not.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

SEPARATOR = "\x1f"  # no name or reason contains it

# the name comes last: whatever it holds, the fields before it are found
SQUEUE_FORMAT = SEPARATOR.join(["%i", "%T", "%r", "%N", "%S", "%e", "%M", "%l", "%j"])
SACCT_FIELDS = "JobIDRaw,State,ExitCode,NodeList,Start,End,ElapsedRaw,TimelimitRaw,JobName"


class JobState(enum.Enum):
    """Slurm's job states, and ``UNKNOWN`` where nobody could be asked or nobody knows the job."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    SIGNALING = "SIGNALING"
    RESIZING = "RESIZING"
    STAGE_OUT = "STAGE_OUT"
    REQUEUED = "REQUEUED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    REQUEUE_FED = "REQUEUE_FED"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BOOT_FAIL = "BOOT_FAIL"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    DEADLINE = "DEADLINE"
    REVOKED = "REVOKED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_final(self) -> bool:
        """The job will not run again by itself."""
        return self in _FINAL

    @property
    def is_waiting(self) -> bool:
        """The job holds no node yet, or not any more."""
        return self in _WAITING

    @property
    def holds_nodes(self) -> bool:
        """Something of the job runs, or is being ended."""
        return not (self.is_final or self.is_waiting or self is JobState.UNKNOWN)

    @classmethod
    def parse(cls, text: str) -> JobState:
        """From ``RUNNING``, ``CANCELLED by 1000`` or ``CANCELLED+``; unheard-of: UNKNOWN."""
        word = text.split(" ")[0].rstrip("+").upper()
        return cls(word) if word in cls._value2member_map_ else cls.UNKNOWN


_FINAL = {
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.TIMEOUT,
    JobState.CANCELLED,
    JobState.NODE_FAIL,
    JobState.PREEMPTED,
    JobState.OUT_OF_MEMORY,
    JobState.BOOT_FAIL,
    JobState.LAUNCH_FAILED,
    JobState.DEADLINE,
    JobState.REVOKED,
}
_WAITING = {
    JobState.PENDING,
    JobState.REQUEUED,
    JobState.REQUEUE_HOLD,
    JobState.REQUEUE_FED,
    JobState.RESV_DEL_HOLD,
    JobState.SPECIAL_EXIT,
}


@dataclass(frozen=True)
class JobReport:
    """One job as Slurm described it.

    Attributes:
        job_id: Slurm's number. It can be handed out again: compare ``name`` before believing it.
        name: the job's name, which holds its token.
        reason: why it waits or how it ended, in Slurm's word; empty for none.
        nodes: the node list, compressed as Slurm writes it; empty before the start.
        start, end: local time of the cluster; ``end`` of a running job is its time limit.
        elapsed_s: seconds since the (last) start.
        earlier_s: seconds that earlier starts of a requeued job took; None where the source does
            not say.
        limit_minutes: the time limit; None: unlimited or unknown.
        exit_status, signal: how the batch script ended; None where the source does not say.
        restarts: how often it was requeued; None where the source does not say.
    """

    job_id: int
    name: str
    state: JobState
    reason: str = ""
    nodes: str = ""
    start: datetime | None = None
    end: datetime | None = None
    elapsed_s: int = 0
    earlier_s: int | None = None
    limit_minutes: float | None = None
    exit_status: int | None = None
    signal: int | None = None
    restarts: int | None = None


def parse_squeue(text: str) -> list[JobReport]:
    """Rows of ``squeue -h -o SQUEUE_FORMAT``."""
    reports = []
    for fields in _rows(text, 9):
        job_id, state, reason, nodes, start, end, elapsed, limit, name = fields
        if job_id.isdecimal():  # pending array tasks have ids such as 7_[0-3]; we submit none
            reports.append(
                JobReport(
                    job_id=int(job_id),
                    name=name,
                    state=JobState.parse(state),
                    reason="" if reason == "None" else reason,
                    nodes=nodes,
                    start=parse_time(start),
                    end=parse_time(end),
                    elapsed_s=parse_duration_s(elapsed) or 0,
                    limit_minutes=_minutes(parse_duration_s(limit)),
                )
            )
    return reports


def parse_sacct(text: str) -> list[JobReport]:
    """Rows of ``sacct -n -P -X --delimiter=SEPARATOR -o SACCT_FIELDS``, in their order.

    A requeued job has several rows under ``-D`` and in a job completion file; the last is newest.
    """
    reports = []
    for fields in _rows(text, 9):
        job_id, state, exit_code, nodes, start, end, elapsed, limit, name = fields
        if job_id.isdecimal():
            status, signal = parse_exit_code(exit_code)
            reports.append(
                JobReport(
                    job_id=int(job_id),
                    name=name,
                    state=JobState.parse(state),
                    nodes="" if nodes in ("(null)", "None assigned") else nodes,
                    start=parse_time(start),
                    end=parse_time(end),
                    elapsed_s=int(elapsed) if elapsed.isdecimal() else 0,
                    limit_minutes=float(limit) if limit.isdecimal() else None,
                    exit_status=status,
                    signal=signal,
                )
            )
    return reports


def parse_scontrol_jobs(text: str) -> list[JobReport]:
    """Lines of ``scontrol -o show job``."""
    reports = []
    for fields in parse_scontrol(text):
        if not fields.get("JobId", "").isdecimal():
            continue
        status, signal = parse_exit_code(fields.get("ExitCode", ""))
        restarts, nodes = fields.get("Restarts", ""), fields.get("NodeList", "")
        reason = fields.get("Reason", "")
        reports.append(
            JobReport(
                job_id=int(fields["JobId"]),
                name=fields.get("JobName", ""),
                state=JobState.parse(fields.get("JobState", "")),
                reason="" if reason == "None" else reason,
                nodes="" if nodes == "(null)" else nodes,
                start=parse_time(fields.get("StartTime", "")),
                end=parse_time(fields.get("EndTime", "")),
                elapsed_s=parse_duration_s(fields.get("RunTime", "")) or 0,
                limit_minutes=_minutes(parse_duration_s(fields.get("TimeLimit", ""))),
                exit_status=status,
                signal=signal,
                restarts=int(restarts) if restarts.isdecimal() else None,
            )
        )
    return reports


def parse_scontrol(text: str) -> list[dict[str, str]]:
    """``Key=Value Key=Value …`` lines of ``scontrol -o``; a value reaches to the next key."""
    pairs = re.compile(r"(?:^| )([A-Z][\w:/]*)=(.*?)(?= [A-Z][\w:/]*=|\s*$)")
    return [dict(pairs.findall(line)) for line in text.splitlines() if "=" in line]


def merge(queue: JobReport | None, tries: Sequence[JobReport]) -> JobReport:
    """What queue and accounts know. The queue knows the state best while it remembers the job.

    Args:
        queue: the job as squeue shows it; None where it does not know it any more.
        tries: its starts as the accounts know them, the last one last; at least one.
    """
    account = tries[-1]
    if queue is None:
        if account.state.is_final:
            return replace(account, earlier_s=_before(tries, account))
        # its last note is older than the controller's memory: it may be forgotten, or not yet back
        return replace(account, state=JobState.UNKNOWN, reason="the controller does not know it")
    if not queue.state.is_final:
        return replace(queue, earlier_s=_before(tries, queue))
    return replace(
        queue,
        exit_status=account.exit_status,
        signal=account.signal,
        restarts=account.restarts,
        elapsed_s=max(queue.elapsed_s, account.elapsed_s),
        earlier_s=_before(tries, account),
        nodes=queue.nodes or account.nodes,
    )


def _before(tries: Sequence[JobReport], now: JobReport) -> int | None:
    """Seconds of the starts before this one; a job that waits again has none of its own."""
    if now.earlier_s is None and tries[-1].earlier_s is None:
        return None
    waits = now.state.is_waiting
    earlier = (one for one in tries if waits or (one.start and now.start and one.start < now.start))
    return sum(one.elapsed_s for one in earlier)


def parse_exit_code(text: str) -> tuple[int | None, int | None]:
    """``(status, signal)`` from ``3:0``."""
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    return (int(match[1]), int(match[2])) if match else (None, None)


def parse_time(text: str) -> datetime | None:
    """From ``2026-11-20T10:10:44``; None for ``Unknown``, ``N/A`` and the like."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def parse_duration_s(text: str) -> int | None:
    """Seconds of ``[days-]hours:minutes:seconds`` or ``minutes:seconds``; None for words."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not match:
        return None
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def expand_nodes(text: str) -> list[str]:
    """The names in a compressed list: ``n[1-2,07],m`` → ``n1 n2 n07 m``."""
    names: list[str] = []
    for word in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names.extend(_expand_word(word))
    return names


def _expand_word(word: str) -> Iterable[str]:
    match = re.match(r"([^\[]*)\[([^\]]*)\](.*)", word)
    if not match:
        return [word] if word else []
    before, inside, after = match.groups()
    tails = list(_expand_word(after)) or [""]
    numbers: list[str] = []
    for part in inside.split(","):
        first, _, last = part.partition("-")
        if last:
            width = len(first)
            numbers += [f"{n:0{width}d}" for n in range(int(first), int(last) + 1)]
        else:
            numbers.append(first)
    return [f"{before}{number}{tail}" for number in numbers for tail in tails]


def _rows(text: str, count: int) -> Iterable[list[str]]:
    for line in text.split("\n"):
        fields = line.split(SEPARATOR, count - 1)
        if len(fields) == count:
            yield [*(field.strip() for field in fields[:-1]), fields[-1]]


def _minutes(seconds: int | None) -> float | None:
    return None if seconds is None else seconds / 60
