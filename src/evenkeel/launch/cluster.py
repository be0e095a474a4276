"""Talking to Slurm: one typed call per question, however many jobs the question is about.

A controller that does not answer is never read as "the job is gone": it raises
``ClusterUnreachableError``, and whoever asked tries again later.
"""

from __future__ import annotations

import enum
import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from evenkeel.errors import InputError, MachineError, did_you_mean
from evenkeel.launch.job_report import (
    SACCT_FIELDS,
    SEPARATOR,
    SQUEUE_FORMAT,
    JobReport,
    JobState,
    merge,
    parse_duration_s,
    parse_sacct,
    parse_scontrol,
    parse_scontrol_jobs,
    parse_squeue,
)

# states of nodes that take no jobs; a star behind a state says that the node does not answer
_OUT = re.compile("down|drain|fail|error|maint|inval|unknown|future|perfctrs", re.IGNORECASE)
TIMEOUT_S = 60.0  # a controller that is down answers after about 9 s


class ClusterUnreachableError(MachineError):
    """The controller did not answer. Jobs may run on, and may have ended; nobody knows."""


class AccountingSource(enum.Enum):
    """Where ended jobs are remembered, from best to least."""

    DATABASE = "sacct"
    FILE = "sacct -c"
    CONTROLLER = "scontrol"  # for MinJobAge only, 5 minutes by default


@dataclass(frozen=True)
class Partition:
    """A partition's limits; None: no limit.

    Attributes:
        max_nodes: the most nodes that one job can get.
        max_minutes: the longest time limit that a job may ask for.
    """

    name: str
    max_minutes: float | None
    max_nodes: int | None
    is_default: bool
    is_up: bool


class Cluster:
    """The Slurm that the environment points to (``SLURM_CONF``, or the system's).

    Args:
        environ: environment of the commands; None: this process's own.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        # settings of the caller's such as SQUEUE_FORMAT or SBATCH_EXPORT must not change answers
        kept = dict(os.environ if environ is None else environ)
        drop = ("SQUEUE_", "SACCT_", "SINFO_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")
        self._environ = {key: value for key, value in kept.items() if not key.startswith(drop)}
        self._environ |= {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
        self._source: AccountingSource | None = None

    @staticmethod
    def is_installed() -> bool:
        """Whether there are Slurm commands on PATH at all."""
        return shutil.which("sbatch") is not None and shutil.which("squeue") is not None

    # -- jobs -----------------------------------------------------------------------------------
    def reports(
        self, expected: Mapping[int, str], restarted: Collection[int] = ()
    ) -> dict[int, JobReport]:
        """What is known of jobs, by id: at most one ``squeue`` and one look into the accounts.

        A row whose name is not the expected one belongs to another job that was given the same
        id, and is left out.

        Args:
            expected: job id → the name under which it was submitted.
            restarted: ids of those that started more than once: the accounts are asked about them
                even while they run.

        Raises:
            ClusterUnreachableError: the controller did not answer.
        """
        found = {
            report.job_id: report
            for report in self._queue(expected)
            if expected.get(report.job_id) == report.name
        }
        asked = [
            job
            for job in expected
            if job not in found or found[job].state.is_final or job in restarted
        ]
        for job_id, tries in self._accounts(asked, expected).items():
            found[job_id] = merge(found.get(job_id), tries)
        return found

    def find(self, names: Iterable[str], since: str = "now-30days") -> dict[str, list[JobReport]]:
        """This user's jobs of the given names, oldest first: where did a submit end up?

        Raises:
            ClusterUnreachableError: the controller did not answer, so "none" cannot be known.
        """
        wanted = set(names)
        user = getpass.getuser()
        output = self._call("squeue", "-h", "-t", "all", "-u", user, "-o", SQUEUE_FORMAT)
        rows = {report.job_id: report for report in parse_squeue(output) if report.name in wanted}
        # a controller that crashed forgets what it had not saved; the accounts may know better
        if missing := wanted - {report.name for report in rows.values()}:
            options = ("-u", user, "-S", since)
            for report in self._account_rows(options):
                if report.name in missing:
                    rows.setdefault(report.job_id, report)
        result: dict[str, list[JobReport]] = {}
        for report in sorted(rows.values(), key=lambda report: report.job_id):
            result.setdefault(report.name, []).append(report)
        return result

    def cancel(self, names: Sequence[str], *, state: JobState | None = None) -> None:
        """Cancel this user's jobs by name, never by an id that may be another job's by now.

        Args:
            names: exact job names.
            state: only those in this state, as ``JobState.PENDING``.

        Raises:
            ClusterUnreachableError: the controller did not answer.
        """
        only = () if state is None else (f"--state={state.value}",)
        for name in names:
            self._call("scancel", f"--user={getpass.getuser()}", f"--name={name}", *only)

    def _queue(self, expected: Mapping[int, str]) -> list[JobReport]:
        if not expected:
            return []
        ids = ",".join(str(job_id) for job_id in expected)
        try:
            output = self._call("squeue", "-h", "-t", "all", "-j", ids, "-o", SQUEUE_FORMAT)
        except ClusterUnreachableError:
            raise
        except MachineError as error:
            if "Invalid job id" in error.message:  # only said when a single job was asked for
                return []
            raise
        return parse_squeue(output)

    def _accounts(
        self, job_ids: Sequence[int], expected: Mapping[int, str]
    ) -> dict[int, list[JobReport]]:
        """Job id → its starts as the accounts know them, the last one last."""
        if not job_ids:
            return {}
        if self.source is AccountingSource.CONTROLLER:
            rows = parse_scontrol_jobs(self._call("scontrol", "-o", "show", "job"))
        else:
            # -D: all starts of a requeued job; a file of completions has them anyway
            every = ("-D",) if self.source is AccountingSource.DATABASE else ()
            rows = self._account_rows((*every, "-j", ",".join(map(str, job_ids))))
            rows = [replace(row, earlier_s=0) for row in rows]
        wanted = set(job_ids)
        found: dict[int, list[JobReport]] = {}
        for row in rows:
            if row.job_id in wanted and row.name == expected[row.job_id]:
                found.setdefault(row.job_id, []).append(row)
        return found

    def _account_rows(self, options: Sequence[str]) -> list[JobReport]:
        """Rows of sacct; empty where there is no sacct or it fails (it is never essential)."""
        if self.source is AccountingSource.CONTROLLER:
            return []
        completions = ["-c"] if self.source is AccountingSource.FILE else []
        layout = ["-n", "-P", "-X", f"--delimiter={SEPARATOR}", "-o", SACCT_FIELDS]
        try:
            return parse_sacct(self._call("sacct", *completions, *layout, *options))
        except MachineError:
            return []

    @property
    def source(self) -> AccountingSource:
        """Where this cluster remembers ended jobs; asked once."""
        if self._source is None:
            config = self._call("scontrol", "show", "config")
            pairs = (line.partition("=") for line in config.splitlines())
            values = {key.strip(): value.strip() for key, _, value in pairs}
            if shutil.which("sacct", path=self._environ.get("PATH")) is None:
                self._source = AccountingSource.CONTROLLER
            elif values.get("AccountingStorageType", "").endswith("slurmdbd"):
                self._source = AccountingSource.DATABASE
            elif values.get("JobCompType", "").endswith("filetxt"):
                self._source = AccountingSource.FILE
            else:
                self._source = AccountingSource.CONTROLLER
        return self._source

    # -- the machine ----------------------------------------------------------------------------
    def partitions(self) -> list[Partition]:
        """All partitions with their limits.

        Raises:
            ClusterUnreachableError: the controller did not answer.
        """
        found = []
        for fields in parse_scontrol(self._call("scontrol", "-o", "show", "partition")):
            seconds = parse_duration_s(fields.get("MaxTime", ""))
            counts = [fields.get(key, "") for key in ("MaxNodes", "TotalNodes")]
            nodes = [int(count) for count in counts if count.isdecimal()]
            found.append(
                Partition(
                    name=fields["PartitionName"],
                    max_minutes=None if seconds is None else seconds / 60,
                    max_nodes=min(nodes, default=None),
                    is_default=fields.get("Default") == "YES",
                    is_up=fields.get("State", "UP") == "UP",
                )
            )
        return found

    def gpus_per_node(self, partition: str) -> int | None:
        """GPUs of the partition's best node; None where no node lists any.

        Raises:
            ClusterUnreachableError: the controller did not answer.
        """
        listed = self._call("sinfo", "-h", "-p", partition, "-o", "%G")
        return _most_gpus(listed)

    def usable_nodes(self, partition: str | None, gpus: int | None) -> list[str]:
        """Nodes of a partition that can take jobs now or later, without those that are out.

        Args:
            partition: its name; None: the default one.
            gpus: that a node must have at least; None: it does not matter.

        Raises:
            ClusterUnreachableError: the controller did not answer.
        """
        name = self.partition(partition).name
        found = []
        for line in self._call("sinfo", "-h", "-N", "-p", name, "-o", "%N|%T|%G").splitlines():
            node, state, gres = line.strip().split("|", 2)
            has = _most_gpus(gres) or 0
            if not _OUT.match(state) and not state.endswith("*") and has >= (gpus or 0):
                found.append(node)
        return found

    def names(self, question: Sequence[str]) -> list[str]:
        """What a listing command knows, sorted, each once; empty where it gives no answer.

        Args:
            question: the command; ``{user}`` in it stands for this user.
        """
        try:
            output = self._call(*(word.format(user=getpass.getuser()) for word in question))
        except MachineError:
            return []
        words = {word for line in output.splitlines() for word in line.strip().split(",")}
        # "No reservations in the system" is no name
        return sorted(word for word in words if word not in ("", "(null)") and " " not in word)

    def partition(self, name: str | None) -> Partition:
        """One partition; None asks for the default one.

        Raises:
            InputError: there is no such partition, or no default.
            ClusterUnreachableError: the controller did not answer.
        """
        known = self.partitions()
        for partition in known:
            if partition.name == name or (name is None and partition.is_default):
                return partition
        names = [partition.name for partition in known]
        if name is None:
            raise InputError(
                "this cluster has no default partition",
                fix=f"set PARTITION to one of {', '.join(names)}",
            )
        raise InputError(
            f"no partition {name!r} on this cluster{did_you_mean(name, names)}",
            fix=f"set PARTITION to one of {', '.join(names)}",
        )

    def _call(self, *argv: str) -> str:
        try:
            done = subprocess.run(
                argv,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except FileNotFoundError as error:
            raise MachineError(
                f"no command {argv[0]!r} on this machine",
                fix="run this where Slurm's client commands are installed, such as a login node",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ClusterUnreachableError(f"{argv[0]} gave no answer in {TIMEOUT_S:g} s") from error
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise classify_failure(argv[0], done.returncode, said)
        return done.stdout


def classify_failure(program: str, return_code: int, said: str) -> MachineError:
    """The error for a Slurm command that failed: was nobody there, or was the answer no?"""
    silent = ("Unable to contact", "Connection refused", "timed out", "Zero Bytes", "connect fail")
    if any(phrase.lower() in said.lower() for phrase in silent):
        return ClusterUnreachableError(
            f"the Slurm controller does not answer ({program}: {said.splitlines()[-1]})",
            fix="try again when it is back; jobs that run are not touched by this",
        )
    return MachineError(f"{program} failed with status {return_code}: {said}")


def _most_gpus(gres: str) -> int | None:
    """The highest count of a list of generic resources: ``gpu:h100:8(S:0-1),tpu:1`` → 8."""
    counts = re.findall(r"\bgpu:(?:[^:,()\s]+:)?(\d+)", gres)
    return max(map(int, counts), default=None)
