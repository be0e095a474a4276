"""The trainer as a process: its command line on one or many nodes, its output, its end.

The trainer runs in a session of its own. What it prints goes to the terminal and to ``run.log``;
a request to stop becomes a file that it looks for at every step (``RunPaths.stop_request``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NamedTuple

from evenkeel.errors import InputError, MachineError
from evenkeel.run_paths import RunPaths

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1
KILL_AFTER_S = 10.0

# Each torchrun asks whether the host name of the rendezvous is its own. Where a node has several
# names or addresses none may say yes, and all wait for one another; Slurm knows who is first.
ON_EACH_NODE = 'export PET_RDZV_CONF="is_host=$((SLURM_NODEID == 0))"; exec "$@"'


@dataclass(frozen=True)
class Allocation:
    """Where the ranks run.

    Args:
        num_nodes: nodes of the allocation.
        ranks_per_node: GPUs, or processes on CPU.
        container_image, container_mounts: handed to ``srun`` (pyxis) where an image is named.
    """

    num_nodes: int
    ranks_per_node: int
    container_image: str = ""
    container_mounts: str = ""

    @classmethod
    def from_environment(
        cls, num_nodes: int, ranks_per_node: int, environment: Mapping[str, str]
    ) -> Allocation:
        """With the container that the job script announced, if any."""
        return cls(
            num_nodes,
            ranks_per_node,
            environment.get("EVENKEEL_CONTAINER", ""),
            environment.get("EVENKEEL_MOUNTS", ""),
        )


def command(
    script: Path,
    arguments: Sequence[str],
    allocation: Allocation,
    environment: Mapping[str, str],
) -> list[str]:
    """The argument vector that trains on the whole allocation.

    One rank is a plain Python process; the ranks of one node are torchrun's; several nodes are
    one torchrun a node under ``srun``, with their rendezvous on the first node.

    Raises:
        InputError: several nodes outside a Slurm allocation of at least that size.
    """
    python = "python3" if allocation.container_image else sys.executable
    trainer = [str(script), *arguments]
    if allocation.num_nodes > 1 or allocation.container_image:
        return [
            *_srun(allocation, environment),
            *("sh", "-c", ON_EACH_NODE, "sh"),
            python,
            *_torchrun(allocation, environment),
            *trainer,
        ]
    if allocation.ranks_per_node == 1:
        return [python, *trainer]
    ranks = str(allocation.ranks_per_node)
    return [
        python,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        ranks,
        *trainer,
    ]


def _srun(allocation: Allocation, environment: Mapping[str, str]) -> list[str]:
    allocated = int(environment.get("SLURM_JOB_NUM_NODES", "0"))
    if allocated < allocation.num_nodes:
        have = f"a Slurm allocation of {allocated}" if allocated else "no Slurm allocation"
        raise InputError(
            f"the driver asks for {allocation.num_nodes} nodes and there is {have}",
            fix="submit it with tools/launch, or call it inside salloc",
        )
    nodes = str(allocation.num_nodes)
    line = ["srun", "--overlap", "--kill-on-bad-exit=1", "--nodes", nodes, "--ntasks", nodes]
    line += ["--ntasks-per-node", "1"]
    if environment.get("SLURM_CPUS_ON_NODE"):  # else srun binds the task to a single core
        line += ["--cpus-per-task", environment["SLURM_CPUS_ON_NODE"]]
    if allocation.container_image:
        line += [f"--container-image={allocation.container_image}"]
    if allocation.container_mounts:
        line += [f"--container-mounts={allocation.container_mounts}"]
    return line


def _torchrun(allocation: Allocation, environment: Mapping[str, str]) -> list[str]:
    job_id = environment.get("SLURM_JOB_ID", "0")
    # jobs that share a node must not share a port; a job's own restarts may
    port = 20_000 + int(job_id) % 20_000
    restart = environment.get("SLURM_RESTART_COUNT", "0")
    return [
        "-m",
        "torch.distributed.run",
        *("--nnodes", str(allocation.num_nodes)),
        *("--nproc-per-node", str(allocation.ranks_per_node)),
        *("--rdzv-backend", "c10d"),
        *("--rdzv-endpoint", f"{_first_node(environment)}:{port}"),
        *("--rdzv-id", f"{job_id}.{restart}"),
    ]


def _first_node(environment: Mapping[str, str]) -> str:
    """The name of the allocation's first node, where the driver itself runs.

    A name that does not resolve (some sites give nodes other host names) is replaced by this
    machine's own.
    """
    nodes = environment.get("SLURM_JOB_NODELIST", "")
    scontrol = shutil.which("scontrol")
    if nodes and scontrol:
        shown = subprocess.run(
            [scontrol, "show", "hostnames", nodes], capture_output=True, text=True, check=False
        )
        for name in shown.stdout.split()[:1]:
            try:
                socket.getaddrinfo(name, None)
            except OSError:
                break
            return name
    return socket.gethostname()


class TrainerEnd(NamedTuple):
    """How the process ended: its exit status (negative: killed by a signal), and whether Ctrl-C
    was among the reasons."""

    status: int
    interrupted: bool


def run(argv: Sequence[str], paths: RunPaths, environment: Mapping[str, str]) -> TrainerEnd:
    """Run the trainer to its end.

    The first SIGINT, SIGTERM or SIGUSR1 asks it to save a checkpoint and end; the second one
    ends it at once.

    Raises:
        MachineError: the command cannot be started.
    """
    paths.root.mkdir(parents=True, exist_ok=True)
    paths.stop_request.unlink(missing_ok=True)
    terminal = sys.stdout.isatty()
    reader, writer = _terminal_pair() if terminal else os.pipe()
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    except OSError as error:
        os.close(reader)
        raise MachineError(f"cannot start {argv[0]}: {error.strerror}") from error
    finally:
        os.close(writer)
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    stopper = _Stopper(process, paths)
    for number in STOP_SIGNALS:
        signal.signal(number, stopper)
    try:
        with paths.run_log.open("ab") as log:
            _copy(reader, process, stopper, log)
        return TrainerEnd(process.wait(), stopper.interrupted)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reader)
        paths.stop_request.unlink(missing_ok=True)


def _terminal_pair() -> tuple[int, int]:
    """(reader, writer) of a pseudo-terminal as wide as ours: the trainer shows live progress."""
    import fcntl
    import pty
    import termios

    reader, writer = pty.openpty()
    size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
    fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    return reader, writer


def _end_with_parent() -> None:
    """In the child: a runner that is killed outright takes the trainer with it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class _Stopper:
    """Handles our signals: first the polite request, then the end."""

    def __init__(self, process: subprocess.Popen[bytes], paths: RunPaths) -> None:
        self.process = process
        self.paths = paths
        self.kill_at: float | None = None
        self.interrupted = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self.interrupted |= number == signal.SIGINT
        if not self.paths.stop_request.exists():
            self.paths.stop_request.write_text(f"{name}\n", encoding="utf-8")
            note = f"{name}: the trainer saves a checkpoint and ends; again to end it at once"
        else:
            self._signal_group(signal.SIGTERM)
            self.kill_at = time.monotonic() + KILL_AFTER_S
            note = f"{name}: ending the trainer"
        print(f"\nevenkeel: {note}", file=sys.stderr, flush=True)

    def kill_when_due(self) -> None:
        """Called now and then: SIGKILL for a trainer that did not end in time."""
        if self.kill_at is not None and time.monotonic() > self.kill_at:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def _copy(reader: int, process: subprocess.Popen[bytes], stopper: _Stopper, log: BinaryIO) -> None:
    """Everything from ``reader`` to our output and, without progress frames, to the log."""
    lines = _LogLines(log)
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while True:
            ready = selector.select(timeout=0.5)
            stopper.kill_when_due()
            if not ready:
                if process.poll() is not None:
                    break  # a child of the trainer may hold the pipe open for ever
                continue
            try:
                chunk = os.read(reader, 65536)
            except OSError:  # a pseudo-terminal whose other end is closed
                break
            if not chunk:
                break
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            lines.write(chunk)
    lines.close()


class _LogLines:
    """Writes whole lines to a log; of a line that was overwritten by ``\\r``, its last state."""

    def __init__(self, log: BinaryIO) -> None:
        self.log = log
        self.rest = b""

    def write(self, chunk: bytes) -> None:
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        for line in whole:
            self._line(line)
        self.log.flush()

    def close(self) -> None:
        if self.rest:
            self._line(self.rest)
        self.log.flush()

    def _line(self, line: bytes) -> None:
        self.log.write(line.rstrip(b"\r").rsplit(b"\r", 1)[-1] + b"\n")
