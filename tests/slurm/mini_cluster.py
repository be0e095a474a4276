"""A real Slurm in a temporary directory: a controller and a few nodes, all on this machine.

Every daemon runs under a *keeper*, a small process of ours that is the reaper of all its
orphans. A node is therefore exactly the tree below its keeper, slurmstepd and user tasks
included, and can be killed as a machine dies: all of it, at once. A keeper ends its tree when the
test process goes away (however it goes) and after ``lifetime_s``, so nothing is left behind.

Runs as root (munge) and as any user of the passwd file (auth/none, only that user submits). Needs
slurmctld, slurmd, the client commands and, as root, munged. Standard library only, because as a
script it is also the keeper.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import getpass
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

DAEMON_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"
FOREIGN = ("SLURM_", "SBATCH_", "SALLOC_", "SRUN_", "SACCT_", "SQUEUE_", "SINFO_", "SCONTROL_")
LONGEST_PATH = 60  # a socket below it must stay under 108 bytes
PR_SET_CHILD_SUBREAPER = 36


class Accounting(enum.Enum):
    """What remembers finished jobs."""

    NONE = "none"  # sacct fails; the controller forgets after MinJobAge
    FILE = "filetxt"  # ``sacct -c`` only
    DATABASE = "slurmdbd"  # sacct as on a real cluster; needs slurmdbd and mariadb


def missing_programs(accounting: Accounting = Accounting.FILE) -> list[str]:
    """Programs this needs that are not installed."""
    names = ["slurmctld", "slurmd", "sbatch", "squeue", "sacct"]
    if os.geteuid() == 0:
        names.append("munged")
    if accounting is Accounting.DATABASE:
        names += ["slurmdbd", "mariadbd", "mariadb-install-db"]
    return [name for name in names if shutil.which(name, path=DAEMON_PATH) is None]


class MiniCluster:
    """One cluster. Use it as a context manager, with ``env()`` for everything that talks to it.

    Args:
        nodes: how many; node *i* is called ``0x7f00000<i>``, which resolves to ``127.0.0.<i>``.
        gpus: GPUs a node claims to have (device files that lead to /dev/null).
        cpus: CPUs a node claims to have.
        memory_mib: memory of a node; jobs above their share are killed.
        accounting: what remembers finished jobs.
        lifetime_s: everything ends after it, whatever happens.
        extra_conf: further lines of slurm.conf.
    """

    def __init__(
        self,
        *,
        nodes: int = 4,
        gpus: int = 8,
        cpus: int = 16,
        memory_mib: int = 64_000,
        accounting: Accounting = Accounting.FILE,
        lifetime_s: int = 900,
        extra_conf: str = "",
    ) -> None:
        self.nodes = [f"0x7f{number:06d}" for number in range(1, nodes + 1)]
        self.gpus, self.cpus, self.memory_mib = gpus, cpus, memory_mib
        self.accounting, self.lifetime_s, self.extra_conf = accounting, lifetime_s, extra_conf
        self.as_root = os.geteuid() == 0
        self.dir = Path(tempfile.mkdtemp(prefix="ek-slurm-", dir="/tmp"))
        self.dir.chmod(0o755)  # munged refuses a socket below a closed folder
        assert len(str(self.dir)) <= LONGEST_PATH
        self.conf = self.dir / "slurm.conf"
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = _free_ports(nodes + 3)

    # -- use ------------------------------------------------------------------------------------
    def env(self, **more: str) -> dict[str, str]:
        """The caller's environment with this cluster, and no other, in it."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        return clean | {"PATH": DAEMON_PATH, "SLURM_CONF": str(self.conf)} | more

    def run(self, *argv: str | Path, check: bool = True) -> str:
        """Stdout of a client command."""
        done = subprocess.run(
            [str(word) for word in argv],
            env=self.env(),
            cwd=self.dir,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check and done.returncode:
            raise RuntimeError(f"{argv}: rc {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, body: str, *options: str) -> int:
        """Id of a new batch job with this bash body."""
        script = self.dir / f"job-{time.monotonic_ns()}.sh"
        script.write_text(f"#!/bin/bash\n{body}\n")
        options = ("--output=/dev/null", *options)  # the caller's own --output comes later and wins
        return int(self.run("sbatch", "--parsable", *options, script))

    def state(self, job_id: int) -> str:
        """The job's state in the controller's words, ``""`` for an unknown job."""
        line = self.run("squeue", "-h", "-t", "all", "-j", f"{job_id}", "-o", "%T", check=False)
        return line.strip()

    def wait_for(self, job_id: int, *states: str, limit_s: float = 60.0) -> str:
        """Wait until the job is in one of ``states``; the one it is in."""
        _wait(f"job {job_id} in {states}", lambda: self.state(job_id) in states, limit_s)
        return self.state(job_id)

    def end_all_jobs(self) -> None:
        """Cancel whatever is left and wait until every node is free."""
        self.run("scancel", "--full", "--user", getpass.getuser())
        _wait("an empty queue", lambda: not self.run("squeue", "-h").strip(), 30)

    def wait_until_saved(self) -> None:
        """Wait until a controller that is killed would remember what it knows now."""
        state, now = self.dir / "state" / "job_state", time.time()
        _wait("saved state", lambda: state.exists() and state.stat().st_mtime > now, 30)

    # -- faults ---------------------------------------------------------------------------------
    def kill_node(self, name: str) -> None:
        """The machine dies: slurmd, slurmstepd and all tasks, by SIGKILL."""
        _kill_tree(self._keepers[name].pid)
        self._let_go(name)

    def kill_slurmd(self, name: str) -> None:
        """Only the daemon dies; the tasks go on. ``kill_node`` still ends them."""
        keeper = self._keepers[name].pid
        for pid, parent in _parents().items():
            if parent == keeper and _command(pid).startswith("slurmd"):
                os.kill(pid, signal.SIGKILL)

    def start_node(self, name: str) -> None:
        """Start a node (again)."""
        (self.dir / "spool" / name).mkdir(parents=True, exist_ok=True)
        if name in self._keepers:
            self._let_go(name, wait=False)
        self._keep(name, "slurmd", "-D", "-N", name)

    def kill_controller(self) -> None:
        """The controller dies by SIGKILL; what it had not saved is lost."""
        _kill_tree(self._keepers["slurmctld"].pid)
        self._let_go("slurmctld")

    def start_controller(self) -> None:
        """Start the controller (again) and wait until it answers."""
        self._keep("slurmctld", "slurmctld", "-D")
        port = self._ports[0]
        # a slurmd that starts before the controller answers loses a second
        _wait("slurmctld", lambda: _answers(port), 30, self._keepers["slurmctld"])

    # -- life -----------------------------------------------------------------------------------
    def __enter__(self) -> MiniCluster:
        try:
            for folder in ("state", "spool", "log", "munge", "gpu"):
                (self.dir / folder).mkdir()
                (self.dir / folder).chmod(0o755)
            if self.as_root:
                self._start_munged()
            if self.accounting is Accounting.DATABASE:
                self._start_database()
            self._write_conf()
            self.start_controller()
            for name in self.nodes:
                self.start_node(name)
            _wait("all nodes idle", self._all_idle, 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        last = ("slurmctld", "slurmdbd", "mariadbd", "munged")
        for name in sorted(
            self._keepers, key=lambda name: last.index(name) if name in last else -1
        ):
            self._let_go(name)
        shutil.rmtree(self.dir, ignore_errors=True)

    def _all_idle(self) -> bool:
        states = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False).split()
        return states == ["idle"] * len(self.nodes)

    def _keep(self, name: str, *argv: str) -> None:
        with (self.dir / "log" / f"{name}.out").open("ab") as out:
            self._keepers[name] = subprocess.Popen(
                [sys.executable, "-SE", __file__, str(self.lifetime_s), *argv],
                stdin=subprocess.PIPE,  # the lifeline: it closes when the test process ends
                stdout=out,
                stderr=out,
                cwd=self.dir,
                env=self.env(),
                start_new_session=True,
            )

    def _let_go(self, name: str, *, wait: bool = True) -> None:
        keeper = self._keepers.pop(name)
        assert keeper.stdin is not None
        keeper.stdin.close()
        if wait:
            keeper.wait(20)

    def _start_munged(self) -> None:
        folder = self.dir / "munge"
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = [f"--{what}-file={folder / what}" for what in ("key", "log", "pid", "seed")]
        self._keep("munged", "munged", "-F", "-S", f"{folder}/socket", "--num-threads=4", *files)
        _wait("munged", (folder / "socket").exists, 10, self._keepers["munged"])

    def _start_database(self) -> None:
        user, data, port = getpass.getuser(), self.dir / "mysql", self._ports[1]
        where = f"--socket={self.dir}/mysql.socket"
        self.run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            f"--user={user}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        )
        self._keep(
            "mariadbd",
            *("mariadbd", "--no-defaults", f"--datadir={data}", f"--user={user}", where),
            *(f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve"),
            *(f"--pid-file={self.dir}/mariadbd.pid", "--innodb-flush-log-at-trx-commit=0"),
            *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
        )
        client = ("mariadb", "--no-defaults", "-u", "root", where, "-e")
        _wait("mariadbd", lambda: bool(self.run(*client, "select 1", check=False)), 30)
        grant = "grant all on *.* to slurm@'127.0.0.1' identified by 'slurm'"
        self.run(*client, grant)
        conf = self.dir / "slurmdbd.conf"
        conf.touch(mode=0o600)  # slurmdbd takes no other mode
        conf.write_text(
            f"{self._auth_conf()}DbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={self._ports[2]}\n"
            f"SlurmUser={user}\nStorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\n"
            f"StoragePort={port}\nStorageUser=slurm\nStoragePass=slurm\nStorageLoc=slurm_acct\n"
            f"LogFile={self.dir}/log/slurmdbd.log\nPidFile={self.dir}/slurmdbd.pid\n"
            "DebugLevel=info\nCommitDelay=0\n"
        )
        self._keep("slurmdbd", "slurmdbd", "-D")
        dbd_port = self._ports[2]
        _wait("slurmdbd", lambda: _answers(dbd_port), 30, self._keepers["slurmdbd"])

    # -- slurm.conf -----------------------------------------------------------------------------
    def _auth_conf(self) -> str:
        # a requeued job waits for cred_expire: 120 s unless told, and less than 5 is not taken
        if self.as_root:
            socket_path = self.dir / "munge" / "socket"
            return f"AuthType=auth/munge\nAuthInfo=socket={socket_path},cred_expire=5\n"
        return "AuthType=auth/none\nAuthInfo=cred_expire=5\n"

    def _accounting_conf(self) -> str:
        if self.accounting is Accounting.DATABASE:
            password = f"AccountingStoragePass={self.dir}/munge/socket\n" if self.as_root else ""
            return (
                "AccountingStorageType=accounting_storage/slurmdbd\n"
                f"AccountingStorageHost=127.0.0.1\nAccountingStoragePort={self._ports[2]}\n"
                f"{password}AccountingStorageTRES=gres/gpu\nAccountingStoreFlags=job_comment\n"
            )
        file = self.accounting is Accounting.FILE
        kept = f"JobCompType=jobcomp/filetxt\nJobCompLoc={self.dir}/jobs.txt\n" if file else ""
        return f"AccountingStorageType=accounting_storage/none\n{kept}"

    def _write_conf(self) -> None:
        for number in range(self.gpus):  # a GPU without a device file would not count
            (self.dir / "gpu" / f"nvidia{number}").symlink_to("/dev/null")
        files = f"{self.dir}/gpu/nvidia[0-{self.gpus - 1}]"
        gpu_line = f"Name=gpu Type=h100 File={files}\n" if self.gpus else ""
        (self.dir / "gres.conf").write_text(gpu_line)
        gres = f" Gres=gpu:h100:{self.gpus}" if self.gpus else ""
        nodes = "".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={self.cpus} Sockets=1 CoresPerSocket={self.cpus} ThreadsPerCore=1 "
            f"RealMemory={self.memory_mib}{gres} State=UNKNOWN\n"
            for name, port in zip(self.nodes, self._ports[3:], strict=True)
        )
        self.conf.write_text(
            CONF.format(
                dir=self.dir,
                user=getpass.getuser(),
                host=socket.gethostname().split(".")[0],
                port=self._ports[0],
                cred="munge" if self.as_root else "none",
            )
            + self._auth_conf()
            + self._accounting_conf()
            + self.extra_conf
            + nodes
            + PARTITIONS
        )


# Limits of seconds where a real cluster has minutes; nothing listens beyond the loopback device;
# a node may claim more CPUs than there are (config_overrides).
CONF = """\
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
CredType=cred/{cred}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool/%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
KillWait=2
MessageTimeout=10
TCPTimeout=2
MinJobAge=300
MaxJobCount=20000
MailProg=/bin/true
"""
PARTITIONS = """\
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=10
PartitionName=short Nodes=ALL MaxTime=00:30:00 DefaultTime=10 PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=lowcancel Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=CANCEL
"""


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now. All are held until the last is found, so they differ."""
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [int(holder.getsockname()[1]) for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _wait(
    what: str,
    test: Callable[[], bool],
    limit_s: float,
    keeper: subprocess.Popen[bytes] | None = None,
) -> None:
    end = time.monotonic() + limit_s
    while not test():
        if keeper is not None and keeper.poll() is not None:
            raise RuntimeError(f"{what} ended with {keeper.returncode}")
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {limit_s:g} s")
        time.sleep(0.05)


# -- process trees --------------------------------------------------------------------------------
def _parents() -> dict[int, int]:
    """pid → pid of its parent, for every process that is not a zombie."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            state, parent = re.split(r"\s+", stat.rpartition(")")[2].strip())[:2]
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def descendants(root: int) -> list[int]:
    """Every process below ``root``, without ``root``."""
    parents = _parents()
    below: set[int] = {root}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        below |= more
        grown = bool(more)
    return sorted(below - {root})


def _kill_tree(root: int) -> None:
    """SIGKILL all below ``root``, again until nothing is left: a fork may win the first race."""
    while found := descendants(root):
        _signal(found, signal.SIGKILL)
        time.sleep(0.01)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


# -- the keeper -----------------------------------------------------------------------------------
def keep(lifetime_s: float, argv: Sequence[str]) -> None:
    """Run ``argv`` until stdin closes or the time is up; then end it and all that came from it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    end = time.monotonic() + lifetime_s
    while time.monotonic() < end and not select.select([sys.stdin], [], [], 0.2)[0]:
        _reap()
    if argv[0] != "slurmd":  # the controller and the database save what they know
        _signal([daemon.pid], signal.SIGTERM)
        patience = time.monotonic() + 3
        while time.monotonic() < patience and daemon.pid in descendants(os.getpid()):
            _reap()
            time.sleep(0.02)
    _kill_tree(os.getpid())
    _reap(0)


def _reap(options: int = os.WNOHANG) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


if __name__ == "__main__":
    keep(float(sys.argv[1]), sys.argv[2:])
