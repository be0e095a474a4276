"""Which nodes a retry leaves out; Slurm's commands are stand-ins, and nothing is submitted."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from evenkeel.launch import intervention
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.intervention import Intervention
from evenkeel.launch.request import JobShape, LaunchOptions, Submission
from evenkeel.launch.submission import JobRecord, SubmitState

# two H100 nodes are left: n3 drains, n4 does not answer, n5 has fewer GPUs
NODES = """\
n1|idle|gpu:h100:8(S:0-1)
n2|mixed|gpu:h100:8
n3|draining|gpu:h100:8
n4|idle*|gpu:h100:8
n5|idle|gpu:a40:4
n6|idle~|(null)
"""
SHAPE = JobShape(
    num_nodes=1, gpus_per_node=8, num_runs=1, num_minutes=10, max_steps=10, steps_per_run=10
)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    for program, answer in (
        ("sinfo", NODES),
        ("scontrol", "PartitionName=main Default=YES MaxTime=UNLIMITED State=UP TotalNodes=6\n"),
    ):
        script = tmp_path / program
        script.write_text(f"#!/bin/bash\ncat <<'END'\n{answer}END\n")
        script.chmod(0o755)
    return Cluster({"PATH": f"{tmp_path}:{os.environ['PATH']}"})


def submission(
    folder: Path, num_nodes: int = 1, options: LaunchOptions | None = None
) -> Submission:
    return Submission(
        launch_id="20260102T030405-abcdef",
        name="sft-a-1n8g-fsdp2tp1",
        driver=PurePosixPath("tests/test_suites/llm/sft-a-1n8g-fsdp2tp1.sh"),
        tree=folder,
        launch_dir=folder,
        shape=JobShape(**{**SHAPE.__dict__, "num_nodes": num_nodes}),
        options=options or LaunchOptions(),
        commit="0" * 40,
        runs=1,
    )


def test_usable_nodes_answer_and_have_the_gpus(cluster: Cluster) -> None:
    assert cluster.usable_nodes(None, 8) == ["n1", "n2"]
    assert cluster.usable_nodes("main", 4) == ["n1", "n2", "n5"]
    assert cluster.usable_nodes("main", None) == ["n1", "n2", "n5", "n6"]


@pytest.mark.parametrize(
    ("num_nodes", "options", "suspects", "left_out"),
    [
        (1, LaunchOptions(), {}, []),
        (1, LaunchOptions(), {"n1": ["a", "b"]}, ["n1"]),
        # the worst one first, and never the last that can do the job
        (1, LaunchOptions(), {"n1": ["a", "b"], "n2": ["a", "b", "c"]}, ["n2"]),
        (2, LaunchOptions(), {"n1": ["a", "b"]}, []),
        (1, LaunchOptions(exclude_nodes=("n2",)), {"n1": ["a", "b"]}, []),
        (1, LaunchOptions(exclude_nodes=("n2",)), {"n2": ["a", "b"]}, []),
        (1, LaunchOptions(exclude_gres=True), {"n1": ["a"], "n5": ["a"], "n6": ["a"]}, None),
        # a node that is out already costs nothing
        (2, LaunchOptions(), {"n3": ["a", "b"]}, ["n3"]),
    ],
)
def test_suspects_are_left_out_while_enough_are_left(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_nodes: int,
    options: LaunchOptions,
    suspects: dict[str, list[str]],
    left_out: list[str] | None,
) -> None:
    submitted: list[Submission] = []
    monkeypatch.setattr(intervention, "_apart", lambda _, again: submitted.append(again))
    said: list[str] = []
    first = JobRecord(1, "sft-a", SubmitState.SUBMITTED, job_id=7)
    act = Intervention(cluster, 1.0, said.append)
    act.retry(submission(tmp_path, num_nodes, options), [first], suspects)
    (again,) = submitted
    expected = ["n1", "n5", "n6"] if left_out is None else left_out
    assert again.options.exclude_nodes == (*options.exclude_nodes, *expected)
    assert (again.first_run, again.runs) == (2, 1)
    assert [f"node {expected[0]} (" in said[0]] == [True] if expected else "node" not in said[0]


def test_a_controller_that_is_away_leaves_no_node_out(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "scontrol"
    script.write_text("#!/bin/bash\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    submitted: list[Submission] = []
    monkeypatch.setattr(intervention, "_apart", lambda _, again: submitted.append(again))
    said: list[str] = []
    first = JobRecord(1, "sft-a", SubmitState.SUBMITTED, job_id=7)
    Intervention(cluster, 1.0, said.append).retry(submission(tmp_path), [first], {"n1": ["a", "b"]})
    assert submitted[0].options.exclude_nodes == ()
    assert "no node is left out: the Slurm controller does not answer" in said[0]
