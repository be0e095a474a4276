"""The trainer as a process, with real processes in its place."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evenkeel.errors import InputError, MachineError
from evenkeel.launch import trainer_process
from evenkeel.launch.trainer_process import Allocation
from evenkeel.run_paths import RunPaths

SCRIPT = Path("/repo/with space/run_sft.py")


def environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}


def test_one_rank_is_a_plain_process() -> None:
    argv = trainer_process.command(SCRIPT, ["a=b c"], Allocation(1, 1), {})
    assert argv == [sys.executable, str(SCRIPT), "a=b c"]


def test_the_ranks_of_one_node_are_torchruns() -> None:
    argv = trainer_process.command(SCRIPT, [], Allocation(1, 4), {})
    expected = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", str(SCRIPT)]
    assert argv == [sys.executable, *expected]


def test_several_nodes_are_one_torchrun_a_node_under_srun() -> None:
    slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "41", "SLURM_CPUS_ON_NODE": "16"}
    argv = trainer_process.command(SCRIPT, ["x=1"], Allocation(2, 8), slurm)
    srun = "srun --overlap --kill-on-bad-exit=1 --nodes 2 --ntasks 2 --ntasks-per-node 1"
    each = ["sh", "-c", trainer_process.ON_EACH_NODE, "sh", sys.executable]
    assert argv[:16] == [*srun.split(), "--cpus-per-task", "16", *each]
    assert argv[argv.index("--rdzv-endpoint") + 1].endswith(":20041")
    assert argv[argv.index("--rdzv-id") + 1] == "41.0"
    assert argv[-2:] == [str(SCRIPT), "x=1"]


def test_a_container_goes_to_srun_and_brings_its_own_python() -> None:
    slurm = {
        "SLURM_JOB_NUM_NODES": "1",
        "EVENKEEL_CONTAINER": "/images/a b.sqsh",
        "EVENKEEL_MOUNTS": "/lustre:/lustre",
    }
    allocation = Allocation.from_environment(1, 8, slurm)
    argv = trainer_process.command(SCRIPT, [], allocation, slurm)
    assert "--container-image=/images/a b.sqsh" in argv
    assert "--container-mounts=/lustre:/lustre" in argv
    assert "python3" in argv


@pytest.mark.parametrize("slurm", [{}, {"SLURM_JOB_NUM_NODES": "1"}])
def test_too_small_an_allocation_is_refused(slurm: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"asks for 2 nodes and there is (no|a) Slurm allocation"):
        trainer_process.command(SCRIPT, [], Allocation(2, 8), slurm)


@pytest.mark.parametrize(("code", "status"), [("", 0), ("raise SystemExit(7)", 7)])
def test_the_exit_status_survives(tmp_path: Path, code: str, status: int) -> None:
    paths = RunPaths(tmp_path / "run")
    end = trainer_process.run([sys.executable, "-c", code], paths, environment())
    assert end == (status, False)


def test_a_signal_shows_as_a_negative_status(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    argv = [sys.executable, "-c", code]
    end = trainer_process.run(argv, RunPaths(tmp_path), environment())
    assert end.status == -signal.SIGKILL


def test_output_goes_to_the_terminal_and_is_appended_to_the_log(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    paths = RunPaths(tmp_path)
    paths.run_log.write_bytes(b"earlier\n")
    code = (
        "import sys; print('one\\r2nd frame'); print('two', file=sys.stderr); print('end', end='')"
    )
    trainer_process.run([sys.executable, "-c", code], paths, environment())
    assert capfdbinary.readouterr().out == b"one\r2nd frame\ntwo\nend"
    assert paths.run_log.read_bytes() == b"earlier\n2nd frame\ntwo\nend\n"


def test_a_grandchild_that_keeps_the_pipe_open_does_not_hang_it(tmp_path: Path) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"
    paths = RunPaths(tmp_path)
    assert trainer_process.run([sys.executable, "-c", code], paths, environment()).status == 0
    os.kill(int(paths.run_log.read_text()), signal.SIGKILL)


def test_a_command_that_does_not_exist_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot start /nowhere/python"):
        trainer_process.run(["/nowhere/python"], RunPaths(tmp_path), environment())


RUNNER = """
import sys
from pathlib import Path
from evenkeel.launch import trainer_process
from evenkeel.run_paths import RunPaths
import os
code = Path(sys.argv[2]).read_text()
end = trainer_process.run([sys.executable, "-c", code], RunPaths(Path(sys.argv[1])), os.environ)
print("STATUS", end.status, end.interrupted)
"""

WAITS_FOR_REQUEST = """
import pathlib, time, sys
request = pathlib.Path({request!r})
print("started", flush=True)
for _ in range(1000):
    if request.exists():
        print("asked:", request.read_text().strip())
        sys.exit(75)
    time.sleep(0.02)
"""

NEVER_LOOKS = """
import time
print("started", flush=True)
time.sleep(60)
"""


def start_runner(tmp_path: Path, trainer: str) -> subprocess.Popen[str]:
    (tmp_path / "trainer.py").write_text(trainer)
    argv = [sys.executable, "-c", RUNNER, str(tmp_path / "run"), str(tmp_path / "trainer.py")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_is_a_request_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    request = RunPaths(tmp_path / "run").stop_request
    process = start_runner(tmp_path, WAITS_FOR_REQUEST.format(request=str(request)))
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out == f"asked: {number.name}\nSTATUS 75 {number == signal.SIGINT}\n"
    assert "saves a checkpoint" in err
    assert not request.exists()


def test_the_second_signal_ends_it(tmp_path: Path) -> None:
    process = start_runner(tmp_path, NEVER_LOOKS)
    request = RunPaths(tmp_path / "run").stop_request
    process.send_signal(signal.SIGTERM)
    while not request.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert out == f"STATUS {-signal.SIGTERM} False\n"


def test_a_killed_runner_takes_the_trainer_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    trainer = f"import os; open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
    process = start_runner(
        tmp_path, trainer + "import time; print('started', flush=True); time.sleep(60)"
    )
    process.kill()
    process.communicate()
    pid = int(pid_file.read_text())
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            break
        time.sleep(0.02)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the trainer outlived its runner")


def test_on_a_terminal_the_trainer_sees_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("import sys; print('terminal:', sys.stdout.isatty())")
    reader, writer = pty.openpty()
    argv = [sys.executable, "-c", RUNNER, str(tmp_path / "run"), str(tmp_path / "trainer.py")]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, check=True, timeout=60)
    os.close(writer)
    shown = os.read(reader, 4096).decode()
    os.close(reader)
    assert "terminal: True" in shown
    assert done.stderr == b""
    assert (tmp_path / "run" / "run.log").read_text() == "terminal: True\n"
