"""The fixture itself: jobs run, faults are what they claim to be, and nothing is left behind."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mini_cluster
import pytest
from mini_cluster import Accounting, MiniCluster, descendants

ClusterMaker = Callable[..., MiniCluster]


def test_jobs_run_on_nodes_that_resolve_and_have_gpus(cluster: MiniCluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    body = 'getent ahostsv4 "$(scontrol show hostnames | head -1)" | head -1\n'
    body += "echo $CUDA_VISIBLE_DEVICES"
    job = cluster.submit(body, f"--output={out}", "--gres=gpu:3", "--nodes=2")
    assert cluster.wait_for(job, "COMPLETED") == "COMPLETED"
    address, gpus = out.read_text().splitlines()
    assert address.startswith("127.0.0.")
    assert gpus == "0,1,2"


def test_a_killed_node_takes_its_tasks_with_it(new_cluster: ClusterMaker, tmp_path: Path) -> None:
    cluster = new_cluster(nodes=2)
    pid_file = tmp_path / "pid"
    # a task that left its session and forgot its environment still dies with the machine
    note = f'echo $$ > "{pid_file}.new"; mv "{pid_file}.new" "{pid_file}"; sleep 300'
    body = f"env -i setsid bash -c '{note}'"
    job = cluster.submit(body, "-w", cluster.nodes[1], "--no-requeue")
    mini_cluster._wait("the task", pid_file.exists, 20)
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}").exists()
    cluster.kill_node(cluster.nodes[1])
    assert not Path(f"/proc/{pid}").exists()
    cluster.run("scontrol", "update", f"nodename={cluster.nodes[1]}", "state=down", "reason=test")
    cluster.wait_for(job, "NODE_FAIL")
    cluster.start_node(cluster.nodes[1])
    again = cluster.submit("exit 0", "-w", cluster.nodes[1])
    assert cluster.wait_for(again, "COMPLETED") == "COMPLETED"


@pytest.mark.usefixtures("slurm_installed")
def test_nothing_is_left_of_a_cluster_whose_test_was_killed() -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from mini_cluster import MiniCluster\n"
        "c = MiniCluster(nodes=1).__enter__()\n"
        "job = c.submit('sleep 300'); c.wait_for(job, 'RUNNING')\n"
        "print(c.dir, *(k.pid for k in c._keepers.values()), flush=True)\n"
        "time.sleep(300)\n"
    )
    test = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert test.stdout is not None
    folder, *words = test.stdout.readline().split()
    keepers = [int(word) for word in words]
    tree = [pid for keeper in keepers for pid in (keeper, *descendants(keeper))]
    assert len(tree) > 2 * len(keepers)
    os.kill(test.pid, signal.SIGKILL)
    test.wait()
    test.stdout.close()
    mini_cluster._wait(
        "an empty machine", lambda: not any(Path(f"/proc/{pid}").exists() for pid in tree), 20
    )
    shutil.rmtree(folder)  # what a killed test cannot do


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user")
@pytest.mark.usefixtures("slurm_installed")
def test_an_ordinary_user_can_have_a_cluster() -> None:
    nobody = pwd.getpwnam("nobody")
    script = (
        "import importlib.machinery as m, sys, types\n"
        "module = types.ModuleType('mini_cluster'); module.__file__ = sys.argv[1]\n"
        "sys.modules['mini_cluster'] = module\n"
        "exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'), module.__dict__)\n"
        "with module.MiniCluster(nodes=1) as c:\n"
        "    job = c.submit('id -un; exit 7')\n"
        "    print(c.wait_for(job, 'FAILED'), c.run('squeue', '-h', '-t', 'all', '-o', '%u'))\n"
    )
    folder = Path("/tmp") / f"ek-nobody-{os.getpid()}"
    folder.mkdir()
    try:
        copy = folder / "mini_cluster.py"
        shutil.copy(mini_cluster.__file__, copy)
        folder.chmod(0o755)
        done = subprocess.run(
            [
                shutil.which("python3", path="/usr/bin:/usr/local/bin") or "",
                "-c",
                script,
                str(copy),
            ],
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "USER": "nobody", "LOGNAME": "nobody"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        shutil.rmtree(folder)
    assert done.stdout.split() == ["FAILED", "nobody"], done.stderr


def test_a_cluster_with_a_database_keeps_an_account(new_cluster: ClusterMaker) -> None:
    cluster = new_cluster(nodes=1, accounting=Accounting.DATABASE)
    job = cluster.submit("exit 3")
    cluster.wait_for(job, "FAILED")

    def row() -> str:
        return cluster.run(
            "sacct", "-n", "-X", "-P", "-j", str(job), "-o", "State,ExitCode"
        ).strip()

    # the controller tells the database of a start and of an end some time after the fact
    mini_cluster._wait("a row of an ended job", lambda: row().startswith("FAILED"), 10)
    assert row() == "FAILED|3:0"
