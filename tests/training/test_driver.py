"""Drivers as people run them: trained, judged, continued, killed and run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAME = "sft-llama-tiny-1n{ranks}g-fsdp2tp1"
DRIVER = """\
#!/usr/bin/env bash
source "$(dirname "${{BASH_SOURCE[0]}}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=1
GPUS_PER_NODE={ranks}
STEPS_PER_RUN={steps_per_run}
MAX_STEPS={max_steps}
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=5
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_sft.py "$@"

judge 'data["train/loss"]["{max_steps}"] < data["train/loss"]["1"]'
"""
RECIPE = """\
defaults: ../../sft.yaml
policy:
  model_config:
    model_type: llama
    hidden_size: 32
    intermediate_size: 64
    num_hidden_layers: 1
    num_attention_heads: 2
    num_key_value_heads: 2
    vocab_size: 272
    max_position_embeddings: 256
    tie_word_embeddings: true
  tokenizer:
    name: bytes
  precision: float32
  max_total_sequence_length: 128
  train_global_batch_size: 8
  train_micro_batch_size: 8
  optimizer:
    lr: 0.01
data:
  dataset: arithmetic
  num_val_samples: 16
checkpointing:
  save_period: 2
cluster:
  gpus_per_node: {ranks}
  device: cpu
"""


class Tree:
    """A small repository with one driver; the package is this one's, by symbolic link."""

    def __init__(
        self, root: Path, *, max_steps: int = 8, steps_per_run: int = 100, ranks: int = 1
    ) -> None:
        name = NAME.format(ranks=ranks)
        suites = root / "tests" / "test_suites"
        (suites / "llm").mkdir(parents=True)
        (root / "src").symlink_to(ROOT / "src")
        (root / "examples" / "configs" / "recipes" / "llm").mkdir(parents=True)
        for path in (ROOT / "examples").glob("run_*.py"):
            (root / "examples" / path.name).symlink_to(path)
        for path in (ROOT / "examples" / "configs").glob("*.yaml"):
            (root / "examples" / "configs" / path.name).symlink_to(path)
        shutil.copy(ROOT / "tests" / "test_suites" / "common.env", suites)
        self.recipe = root / "examples" / "configs" / "recipes" / "llm" / f"{name}.yaml"
        self.recipe.write_text(RECIPE.format(ranks=ranks))
        self.driver = suites / "llm" / f"{name}.sh"
        self.driver.write_text(
            DRIVER.format(max_steps=max_steps, steps_per_run=steps_per_run, ranks=ranks)
        )
        self.driver.chmod(0o755)
        self.results = self.driver.with_suffix("")

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        environment = {
            **kept,
            "EVENKEEL_PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        return subprocess.Popen(
            [self.driver, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd="/",
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.start(*arguments, **variables)
        out, _ = process.communicate(timeout=200)
        return process.returncode, out

    def losses(self) -> dict[str, float]:
        metrics = json.loads((self.results / "metrics.json").read_text())
        return metrics["train/loss"]

    def record(self) -> dict[str, Any]:
        return json.loads((self.results / "run.json").read_text())


def test_a_driver_finds_its_recipe_through_a_link_and_a_path_with_spaces(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "my tree")
    (tmp_path / "short").symlink_to(tree.driver.parent)
    tree.driver = tmp_path / "short" / tree.driver.name
    status, out = tree.run(TEST_DRYRUN="1")
    assert (status, out) == (0, f"[INFO] TEST_DRYRUN: {tree.recipe} resolves\n")


def test_one_call_trains_judges_and_leaves_its_results_beside_the_driver(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    status, out = tree.run()
    assert status == 0, out
    assert out.splitlines()[-1].startswith(f"PASS {tree.results.name}: 1 check passed")
    assert {path.name for path in tree.results.iterdir()} == {
        ".lock",
        "logs",
        "metrics.json",
        "run.json",
        "run.log",
        "verdict.json",
    }
    assert sorted(tree.losses(), key=int) == [str(step) for step in range(1, 9)]
    record = tree.record()
    assert record["recipe"] == tree.results.name
    assert [attempt["exit_status"] for attempt in record["attempts"]] == [0]
    assert "step 8/8" in (tree.results / "run.log").read_text()

    status, out = tree.run()
    assert (status, "has ended at step 8 of 8: PASS" in out) == (0, True)
    assert len(tree.record()["attempts"]) == 1

    status, out = tree.run("policy.optimizer.lr=0.5")
    assert status == 2
    assert "policy.optimizer.lr: 0.01 -> 0.5" in out


def test_runs_of_three_steps_give_the_curve_of_one_bit_for_bit(tmp_path: Path) -> None:
    whole = Tree(tmp_path / "whole")
    assert whole.run("cluster.device=cpu", KEEP_CKPTS="1")[0] == 0
    assert (whole.results / "ckpts").is_dir()
    parts = Tree(tmp_path / "parts", steps_per_run=3)
    said = [parts.run() for _ in range(3)]
    assert [status for status, _ in said] == [1, 1, 0]
    assert ["INCOMPLETE" in out for _, out in said] == [True, True, False]
    assert "step 3 of 8" in said[0][1]
    assert parts.losses() == whole.losses()
    assert [attempt["exit_status"] for attempt in parts.record()["attempts"]] == [0, 0, 0]


def test_a_killed_run_is_crashed_and_the_next_call_continues_it(tmp_path: Path) -> None:
    tree = Tree(tmp_path, ranks=2, max_steps=40)
    process = tree.start()
    checkpoints = tree.results / "ckpts"
    for _ in range(6000):
        if any(checkpoints.glob("step_*")):
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    runner = next(int(pid) for pid in children if b"driver" in _command_line(int(pid)))
    (torchrun,) = Path(f"/proc/{runner}/task/{runner}/children").read_text().split()
    os.killpg(int(torchrun), signal.SIGKILL)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "CRASHED" in out
    assert "was killed by signal 9" in out
    status, out = tree.run()
    assert status == 0, out
    assert "continuing from the checkpoint of step" in out
    assert sorted(tree.losses(), key=int) == [str(step) for step in range(1, 41)]
    assert [attempt["exit_status"] for attempt in tree.record()["attempts"]] == [-9, 0]


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_loss_that_is_not_finite_is_named_through_torchrun_too(tmp_path: Path) -> None:
    tree = Tree(tmp_path, ranks=2)
    status, out = tree.run("policy.optimizer.lr=1e20")
    assert status == 1
    assert f"NON_FINITE {tree.results.name}: train/" in out
    assert tree.record()["attempts"][0]["exit_status"] == 76
    status, out = tree.run("policy.optimizer.lr=1e20")
    assert (status, "NON_FINITE" in out) == (1, True)
    assert len(tree.record()["attempts"]) == 1


def test_a_request_to_stop_ends_it_with_a_checkpoint(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    process = tree.start("sft.max_num_steps=100000")
    for _ in range(6000):
        if tree.results.is_dir() and (tree.results / "ckpts").is_dir():
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    (tree.results / "stop_request").write_text("test\n")
    out, _ = process.communicate(timeout=100)
    assert tree.record()["attempts"][0]["exit_status"] == 75
    assert process.returncode == (0 if len(tree.losses()) >= 8 else 1), out
    assert not (tree.results / "stop_request").exists()


def test_a_dry_run_resolves_the_recipe_and_stops(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    status, out = tree.run("policy.optimizer.lr=0.02", TEST_DRYRUN="1")
    assert (status, "resolves" in out) == (0, True)
    assert not tree.results.exists()
    status, out = tree.run("policy.optimiser.lr=0.02", TEST_DRYRUN="1")
    assert status == 2
    assert "did you mean 'optimizer'?" in out


def test_a_broken_recipe_is_told_before_anything_starts(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.recipe.write_text(tree.recipe.read_text().replace("precision", "presicion"))
    status, out = tree.run()
    assert status == 2
    assert f"{tree.recipe}:15" in out
    assert "presicion" in out
    assert "precision" in out
    assert not tree.results.exists()
