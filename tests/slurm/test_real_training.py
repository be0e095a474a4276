"""The whole way with a real trainer: tools/launch, snapshot, Slurm, torchrun, verdicts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mini_cluster import MiniCluster

from evenkeel.convergence import baseline as baseline_file

ROOT = Path(__file__).parents[2]
PARTS = ["src", "examples", "tests/test_suites"]
ONE = "sft-llama-0.9m-1n1g-fsdp2tp1"
TWO = "sft-llama-0.9m-2n1g-fsdp2tp1"
RECIPE = f"""\
defaults: {ONE}.yaml
sft:
  max_num_steps: 12
cluster:
  num_nodes: 2
"""
DRIVER = """\
#!/usr/bin/env bash
source "$(dirname "${{BASH_SOURCE[0]}}")/../common.env"
# ===== BEGIN CONFIG =====
NUM_NODES={nodes}
GPUS_PER_NODE=1
STEPS_PER_RUN={steps}
MAX_STEPS=12
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))
NUM_MINUTES=10
# ===== END CONFIG =====
exit_if_max_steps_reached
train examples/run_sft.py "$@"
judge 'data["train/loss"]["12"] < data["train/loss"]["1"]'
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of its own with our code and the two small drivers."""
    root = tmp_path / "repository"
    for part in PARTS:
        source, target = ROOT / part, root / part
        # results of somebody's own runs lie beside the drivers
        ignored = shutil.ignore_patterns("__pycache__", "ckpts", "logs", "*.json", "run.log")
        shutil.copytree(source, target, ignore=ignored)
    (root / f"examples/configs/recipes/llm/{TWO}.yaml").write_text(RECIPE)
    for name, nodes, steps in ((ONE, 1, 12), (TWO, 2, 6)):
        driver = DRIVER.format(nodes=nodes, steps=steps)
        (root / f"tests/test_suites/llm/{name}.sh").write_text(driver)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    return root


def _call(cluster: MiniCluster, repository: Path, *command: str | Path) -> None:
    done = subprocess.run(
        command,
        cwd=repository,
        env=cluster.env(OMP_NUM_THREADS="1", PARTITION="main"),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_training_on_one_and_two_nodes_ends_with_verdicts(
    new_cluster: Callable[..., MiniCluster], repository: Path
) -> None:
    # three nodes, so that the second recipe gets two that torchrun does not know as its own
    cluster = new_cluster(nodes=3, gpus=1)
    drivers = [f"tests/test_suites/llm/{name}.sh" for name in (ONE, TWO)]
    _call(cluster, repository, ROOT / "tools" / "launch", "--watch", *drivers)
    (path,) = repository.glob("code_snapshots/.launches/*/result.json")
    result = json.loads(path.read_text())
    assert [recipe["verdict"] for recipe in result["recipes"]] == ["PASS", "PASS"]
    for recipe, starts in zip(result["recipes"], (1, 2), strict=True):
        metrics = json.loads((Path(recipe["run_dir"]) / "metrics.json").read_text())
        assert list(metrics["train/loss"]) == [str(step) for step in range(1, 13)]
        record = json.loads((Path(recipe["run_dir"]) / "run.json").read_text())
        assert [attempt["exit_status"] for attempt in record["attempts"]] == [0] * starts
        assert record["platform"]["hostname"]
    losses = [
        json.loads((Path(recipe["run_dir"]) / "metrics.json").read_text())["train/loss"]
        for recipe in result["recipes"]
    ]
    # the same samples in the same order, whatever the number of nodes
    for step in losses[0]:
        assert losses[0][step] == pytest.approx(losses[1][step], abs=1e-3)


def test_a_baseline_is_trained_as_jobs(
    new_cluster: Callable[..., MiniCluster], repository: Path, tmp_path: Path
) -> None:
    cluster, output = new_cluster(nodes=3, gpus=1), tmp_path / "B.json"
    words = [ONE, "--executor", "slurm", "--runs", "2", "--poll-s", "1", "--output", str(output)]
    program = (sys.executable, "-m", "evenkeel.cli.main")
    _call(cluster, repository, *program, "baseline", "record", *words)
    baseline = baseline_file.load(output)
    assert [run.seed for run in baseline.runs] == [42, 1001]
    assert all(run.initial_weights for run in baseline.runs)
    own, other = baseline.curves["train/loss"].values
    (twin,) = baseline.twin_curves["train/loss"].values
    assert 0 < abs(twin - own).max() < 0.01 < abs(other - own).max()
