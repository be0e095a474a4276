"""One writer per run directory, by locks that are numbered and therefore fence.

A holder's lock is the file ``lock/<n>.json`` with the highest number ``n``; the number is its
*fencing token* (Kleppmann, *Designing Data-Intensive Applications*, ch. 8). It is made by a hard
link, which exactly one of several makers gets, on NFS too. While the holder lives, a thread touches
the file. Who wants the directory looks at the newest lock: released, or its holder gone, it makes
the next number. A holder that was only asleep (a node that came back, a stopped process) finds a
higher number than its own, and must not write any more: ``is_current`` is one or two ``stat``
calls, cheap enough to ask before every checkpoint.

The files are described in ``docs/data-formats.md``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from evenkeel.errors import InputError, MachineError
from evenkeel.run_paths import RunPaths
from evenkeel.run_record import now

SCHEMA_VERSION = 1
HEARTBEAT_S = 5.0
STALE_AFTER_S = 30.0
"""A lock of another machine that was not touched for so long has lost its holder."""
TOKEN_VARIABLE = "EVENKEEL_LOCK_TOKEN"


class RunLockedError(InputError):
    """Somebody else writes to the run directory now."""


class RunLostError(MachineError):
    """This process held the run directory once, and somebody has taken over."""


@dataclass(frozen=True)
class Holder:
    """Who has, or had, a run directory.

    Attributes:
        token: the lock's number.
        host, pid, pid_start: the process; ``pid_start`` tells it from a later one of the same pid.
        boot_id, pid_namespace: identify the boot of the machine, and the container on it.
        job_id, restart: of Slurm, if any; a requeued job keeps its id and counts its restarts.
        since: when it got the lock, UTC.
        released: it ended in order.
    """

    token: int
    host: str
    pid: int
    pid_start: int
    boot_id: str
    pid_namespace: str
    job_id: str | None
    restart: int
    since: str
    released: bool = False

    def __str__(self) -> str:
        job = f"job {self.job_id}, " if self.job_id else ""
        return f"{job}process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """The lock of one run directory, held; use it as a context manager.

    Args:
        paths: the run.
        heartbeat_s: seconds between touches.
        stale_after_s: silence after which a holder on another machine counts as gone; taking over
            from one takes up to so long.

    Raises:
        RunLockedError: another holder is alive.
        MachineError: the file system refused.
    """

    def __init__(
        self,
        paths: RunPaths,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        stale_after_s: float = STALE_AFTER_S,
    ) -> None:
        self._paths = paths
        self._folder = paths.lock_dir
        self.previous: Holder | None = None
        """Whom this one took over from, when that one did not end in order."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.holder = self._acquire(stale_after_s)
            self._remove_older()
            self._handle = os.open(self._file(self.token), os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise MachineError(
                f"cannot lock: {error.strerror}", path=self._folder, fix="check the file system"
            ) from error
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, args=(heartbeat_s,), name="run lock", daemon=True
        )
        self._thread.start()

    @property
    def token(self) -> int:
        """This holder's number; a later holder's is higher."""
        return self.holder.token

    def is_current(self) -> bool:
        """Whether nobody has taken over."""
        return is_current(self._paths, self.token)

    def release(self) -> None:
        """Give the directory back."""
        self._end.set()
        self._thread.join()
        os.close(self._handle)
        if self.is_current():
            value = {"schema_version": SCHEMA_VERSION, **asdict(self.holder), "released": True}
            temporary = self._folder / f".{self.token}.released"
            temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            temporary.replace(self._file(self.token))

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _acquire(self, stale_after_s: float) -> Holder:
        while True:
            newest = read_holder(self._paths)
            mine = _me(1 if newest is None else newest.token + 1)
            if newest is not None and not newest.released:
                # Slurm gave this job new nodes, so its first start has lost the right to write,
                # also where its processes live on because only the daemon of their node died
                if not _is_earlier_start(newest, mine):
                    self._await_end(newest, stale_after_s)
                self.previous = newest
            if self._make(mine):
                return mine
            # somebody else made that number first: look at them

    def _await_end(self, holder: Holder, stale_after_s: float) -> None:
        """Return when the holder is gone for certain, raise when it is alive for certain."""
        alive = _is_alive_here(holder)
        if alive is False:
            return
        touched = self._touched(holder.token)
        end = time.monotonic() + stale_after_s
        while alive is None and time.monotonic() < end:
            if self._touched(holder.token) != touched:
                alive = True
            elif (seen := read_holder(self._paths)) is None or seen != holder:
                return
            else:
                time.sleep(min(0.25, stale_after_s / 10))
        if alive:
            raise RunLockedError(
                f"another writer has this run directory: {holder}",
                path=self._paths.root,
                fix="wait for its end, or end it first (scancel, or kill that process)",
            )

    def _touched(self, token: int) -> int:
        """When the lock was touched last, by the clock of the file system; 0: it is gone."""
        try:
            with self._file(token).open("rb") as file:  # opening revalidates what NFS has cached
                return os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return 0

    def _make(self, holder: Holder) -> bool:
        temporary = self._folder / f".{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        value = {"schema_version": SCHEMA_VERSION, **asdict(holder)}
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        try:
            os.link(temporary, self._file(holder.token))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _remove_older(self) -> None:
        """All but the one before: its number shows where this one came from."""
        for path in self._folder.glob("*.json"):
            if path.stem.isdecimal() and int(path.stem) < self.token - 1:
                path.unlink(missing_ok=True)

    def _beat(self, heartbeat_s: float) -> None:
        while not self._end.wait(heartbeat_s):
            with contextlib.suppress(OSError):  # by the open file: never touches a successor's
                os.utime(self._handle)

    def _file(self, token: int) -> Path:
        return self._folder / f"{token}.json"


def is_current(paths: RunPaths, token: int) -> bool:
    """Whether ``token`` is still the newest lock of the run directory."""
    folder = paths.lock_dir
    return (folder / f"{token}.json").exists() and not (folder / f"{token + 1}.json").exists()


def require_current(paths: RunPaths, environ: Mapping[str, str]) -> None:
    """For a process below the holder, which has its token in the environment, if anybody has one.

    Raises:
        RunLostError: somebody has taken over, so nothing may be written any more.
    """
    token = environ.get(TOKEN_VARIABLE, "")
    if token.isdecimal() and not is_current(paths, int(token)):
        raise RunLostError(
            f"another writer has taken over this run directory: {read_holder(paths)}",
            path=paths.root,
            fix="nothing: this start of the run was given up, and the other one goes on",
        )


def read_holder(paths: RunPaths) -> Holder | None:
    """The newest holder, released or not; None where the directory was never locked.

    Raises:
        InputError: the newest lock is not a lock.
    """
    try:
        tokens = [int(path.stem) for path in paths.lock_dir.glob("*.json") if path.stem.isdecimal()]
        if not tokens:
            return None
        path = paths.lock_dir / f"{max(tokens)}.json"
        value = json.loads(path.read_text(encoding="utf-8"))
        value.pop("schema_version")
        return Holder(**value)
    except FileNotFoundError:  # its successor has just removed it
        return read_holder(paths)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("not a lock", path=path, fix="remove the file") from error


def _is_earlier_start(holder: Holder, mine: Holder) -> bool:
    same_job = holder.job_id is not None and holder.job_id == mine.job_id
    return same_job and holder.restart < mine.restart


def _me(token: int) -> Holder:
    return Holder(
        token=token,
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_start=_start_of(os.getpid()) or 0,
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        job_id=os.environ.get("SLURM_JOB_ID"),
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        since=now(),
    )


def _is_alive_here(holder: Holder) -> bool | None:
    """Whether the process lives, when it can be seen from here; None when it cannot.

    Only processes of this boot and this PID namespace can be seen: another container on the same
    machine has its own, and host names are no proof of anything.
    """
    if (holder.boot_id, holder.pid_namespace) != (_boot_id(), _pid_namespace()):
        return None
    return _start_of(holder.pid) == holder.pid_start


def _start_of(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "unknown"
