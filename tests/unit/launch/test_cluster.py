"""What is made of Slurm's answers when they are no, nothing, or too late; without a Slurm."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from evenkeel.errors import InputError, MachineError
from evenkeel.launch.cluster import Cluster, ClusterUnreachableError
from evenkeel.launch.job_report import JobState

Fake = Callable[[str, str], None]
CONFIG = "AccountingStorageType   = accounting_storage/slurmdbd\nJobCompType = jobcomp/none\n"
PARTITIONS = (
    "PartitionName=main Default=YES MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP TotalNodes=4\n"
    "PartitionName=short Default=NO MaxNodes=2 MaxTime=1-00:30:00 State=DRAIN TotalNodes=4\n"
)


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    def make(program: str, body: str) -> None:
        script = tmp_path / program
        script.write_text(f'#!/bin/bash\necho "{program} $*" >> {tmp_path}/calls\n{body}\n')
        script.chmod(0o755)

    return make


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster({"PATH": f"{tmp_path}:{os.environ['PATH']}", "SQUEUE_FORMAT": "%i"})


def rows(text: str) -> str:
    return f"printf '{text}' | tr '|' '\\037'"


def calls(folder: Path) -> list[str]:
    return [line.split(" ")[0] for line in (folder / "calls").read_text().splitlines()]


def test_a_controller_that_is_away_is_not_a_job_that_is_gone(fake: Fake, cluster: Cluster) -> None:
    fake("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ClusterUnreachableError, match="does not answer"):
        cluster.reports({1: "a"})
    with pytest.raises(ClusterUnreachableError):
        cluster.find(["a"])


def test_a_job_that_only_the_accounts_know(fake: Fake, cluster: Cluster, tmp_path: Path) -> None:
    fake("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    fake("scontrol", f"printf '{CONFIG}'")
    fake("sacct", rows("1|FAILED|3:0|n1|Unknown|Unknown|5|60|a\\n"))
    found = cluster.reports({1: "a"})
    assert (found[1].state, found[1].exit_status) == (JobState.FAILED, 3)
    cluster.reports({1: "a"})
    assert calls(tmp_path) == ["squeue", "scontrol", "sacct", "squeue", "sacct"]


def test_a_reused_id_is_another_job(fake: Fake, cluster: Cluster) -> None:
    fake("squeue", rows("1|RUNNING|None|n1|N/A|N/A|0:01|1:00|other\\n2|RUNNING|None||||||b\\n"))
    fake("scontrol", f"printf '{CONFIG}'")
    fake("sacct", rows("1|RUNNING|0:0|n1|Unknown|Unknown|5|60|other\\n"))
    assert list(cluster.reports({1: "a", 2: "b"})) == [2]


def test_a_job_that_runs_only_in_the_accounts_is_unknown(fake: Fake, cluster: Cluster) -> None:
    fake("squeue", "true")
    fake("scontrol", f"printf '{CONFIG}'")
    fake("sacct", rows("1|RUNNING|0:0|n1|Unknown|Unknown|5|60|a\\n"))
    assert cluster.reports({1: "a", 2: "b"})[1].state is JobState.UNKNOWN


@pytest.mark.parametrize("body", ["exit 1", "echo nonsense"])
def test_accounts_that_fail_cost_nothing(fake: Fake, cluster: Cluster, body: str) -> None:
    fake("squeue", rows("1|FAILED|NonZeroExitCode|n1|N/A|N/A|0:01|1:00|a\\n"))
    fake("scontrol", f"printf '{CONFIG}'")
    fake("sacct", body)
    assert cluster.reports({1: "a"})[1].state is JobState.FAILED


def test_without_accounts_the_controller_is_asked_once(
    fake: Fake, cluster: Cluster, tmp_path: Path
) -> None:
    fake("squeue", "true")
    show = "printf 'JobId=1 JobName=a JobState=FAILED Reason=None ExitCode=3:0\\n'"
    fake("scontrol", f'case "$*" in *config) ;; *) {show} ;; esac')
    assert cluster.reports({1: "a", 2: "b"})[1].exit_status == 3
    assert calls(tmp_path) == ["squeue", "scontrol", "scontrol"]


def test_nothing_is_asked_about_no_job(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.reports({}) == {}
    assert not (tmp_path / "calls").exists()


def test_partitions_and_their_limits(fake: Fake, cluster: Cluster) -> None:
    fake("scontrol", f"printf '{PARTITIONS}'")
    main, short = cluster.partition(None), cluster.partition("short")
    assert (main.name, main.max_minutes, main.max_nodes, main.is_up) == ("main", None, 4, True)
    assert (short.max_minutes, short.max_nodes, short.is_up) == (1470, 2, False)
    with pytest.raises(InputError, match=r"did you mean 'short'") as caught:
        cluster.partition("shrot")
    assert "main, short" in str(caught.value)


def test_a_machine_without_slurm_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no command 'squeue'"):
        Cluster({"PATH": str(tmp_path)}).reports({1: "a"})
