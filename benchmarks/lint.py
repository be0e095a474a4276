"""Time and memory of ``evenkeel lint`` on a generated tree, and on one changed file of it.

    python benchmarks/lint.py [--files 10000] [--schema ours|foreign]

Prints seconds and peak memory (all processes) of the whole tree, and the median of one file, the
start of the interpreter included.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

OUR_BASES = Path(__file__).parents[1] / "examples/configs"
FOREIGN_BASE = """\
sft: {max_num_steps: 60, val_period: 10}
policy:
  model_name: meta-llama/Llama-3.1-8B
  train_global_batch_size: 1024
  train_micro_batch_size: 1
  dtensor_cfg: {enabled: true, tensor_parallel_size: 1, context_parallel_size: 1}
  megatron_cfg: {enabled: false}
cluster: {gpus_per_node: 1, num_nodes: 1}
"""
BLOCK = """\
# ===== BEGIN CONFIG =====
NUM_NODES={nodes}
STEPS_PER_RUN=250
MAX_STEPS=1000
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=30
# ===== END CONFIG =====
"""
OUR_DRIVER = """\
#!/usr/bin/env bash
source "$(dirname "${{BASH_SOURCE[0]}}")/../common.env"

{block}
exit_if_max_steps_reached
train examples/run_sft.py "$@"
judge \\
    'mean(data["train/loss"], -10, 0) < 0.58' \\
    'data["validation/loss"]["1000"] < 0.82'
"""
FOREIGN_DRIVER = """\
#!/bin/bash
SCRIPT_DIR=$( cd -- "$( dirname -- "${{BASH_SOURCE[0]}}" )" &> /dev/null && pwd)
source $SCRIPT_DIR/common.env

{block}
exit_if_max_steps_reached

cd $PROJECT_ROOT
uv run examples/run_sft.py \\
    --config $CONFIG_PATH \\
    sft.max_num_steps=$MAX_STEPS \\
    logger.log_dir=$LOG_DIR \\
    checkpointing.checkpoint_dir=$CKPT_DIR \\
    $@ \\
    2>&1 | tee $RUN_LOG

uv run tests/json_dump_tb_logs.py $LOG_DIR --output_path $JSON_METRICS
if [[ $(jq '."train/loss" | keys | map(tonumber) | max' $JSON_METRICS) -ge $MAX_STEPS ]]; then
    uv run tests/check_metrics.py $JSON_METRICS \\
        'mean(data["train/loss"], -10, 0) < 0.58' \\
        'data["validation/loss"]["1000"] < 0.82'
fi
"""


def generate(root: Path, num_files: int, schema: str) -> list[str]:
    """Half drivers, half recipes, one listing; returns the drivers."""
    suites, recipes = root / "tests/test_suites/llm", root / "examples/configs/recipes/llm"
    suites.mkdir(parents=True)
    recipes.mkdir(parents=True)
    ours = schema == "ours"
    if ours:
        for base in OUR_BASES.glob("*.yaml"):
            shutil.copy(base, root / "examples/configs")
    else:
        (root / "examples/configs/sft.yaml").write_text(FOREIGN_BASE, encoding="utf-8")
    (root / "tests/test_suites/common.env").write_text("", encoding="utf-8")
    drivers: list[str] = []
    layouts = itertools.product((1, 2, 4, 8, 16, 32), (1, 2, 4, 8))
    for (nodes, tensor), number in itertools.product(layouts, range(num_files)):
        if len(drivers) * 2 >= num_files:
            break
        if number * 48 >= num_files:
            continue
        name = f"sft-llama3.1-8b-1n8g-fsdp2tp{tensor}-temp{number}".replace("1n8g", f"{nodes}n8g")
        (recipes / f"{name}.yaml").write_text(recipe(ours, nodes, tensor, number), encoding="utf-8")
        driver = suites / f"{name}.sh"
        template = OUR_DRIVER if ours else FOREIGN_DRIVER
        driver.write_text(template.format(block=BLOCK.format(nodes=nodes)), encoding="utf-8")
        driver.chmod(0o755)
        drivers.append(f"llm/{name}.sh")
    listing = "".join(f"{driver}\n" for driver in drivers)
    (root / "tests/test_suites/nightly.txt").write_text(listing, encoding="utf-8")
    return drivers


def recipe(ours: bool, nodes: int, tensor: int, number: int) -> str:
    """A recipe of about 25 lines."""
    section = "parallel" if ours else "dtensor_cfg"
    sizes = f"  {section}:\n    tensor_parallel_size: {tensor}\n" if tensor > 1 else ""
    where = "" if nodes == 1 else f"  num_nodes: {nodes}\n"
    gpus = "" if ours else "  gpus_per_node: 8\n"
    model = (
        "  model_name: meta-llama/Llama-3.1-8B\n  train_global_batch_size: 1024\n" if ours else ""
    )
    cluster = f"cluster:\n{gpus}{where}" if gpus or where else ""
    # one key a line, as people write them
    sampling = "".join(f"    key_{index}: {number + index}\n" for index in range(12))
    options = f"data:\n  options:\n{sampling}" if ours else f"extra:\n  options:\n{sampling}"
    return (
        f"defaults: ../../sft.yaml\npolicy:\n{model}  max_total_sequence_length: {4096 + number}\n"
        f"{sizes}sft:\n  max_num_steps: 1000\n{options}{cluster}"
    )


class Memory(threading.Thread):
    """Peak of the proportional set size of a process and its children, in MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0.0

    def run(self) -> None:
        while (now := self.total()) > 0:
            self.peak = max(self.peak, now)
            time.sleep(0.05)

    def total(self) -> float:
        return sum(self.share_of(pid) for pid in (self.pid, *self.children())) / 1024

    def children(self) -> list[int]:
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        except OSError:
            return []
        return [int(pid) for pid in text.split()]

    @staticmethod
    def share_of(pid: int) -> int:
        try:
            rows = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        return next((int(row.split()[1]) for row in rows if row.startswith("Pss:")), 0)


def timed(arguments: list[str]) -> tuple[float, float, int, str]:
    """Seconds, peak MiB, exit status and the last line of one run."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "evenkeel.cli.main", "lint", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        memory = Memory(process.pid)
        memory.start()
        out, _ = process.communicate()
    seconds = time.perf_counter() - start
    return seconds, memory.peak, process.returncode, (out.splitlines() or [""])[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--schema", choices=["ours", "foreign"], default="ours")
    parser.add_argument("--keep", type=Path, help="write the tree here and leave it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.keep or Path(scratch) / "tree"
        drivers = generate(root, args.files, args.schema)
        whole, peak, status, last = timed(["--root", str(root)])
        print(f"whole tree: {whole:.2f} s, peak {peak:.0f} MiB, {os.cpu_count()} cores")
        print(f"            exit status {status}: {last}")
        one = f"tests/test_suites/{drivers[len(drivers) // 2]}"
        runs = [timed(["--root", str(root), one])[0] for _ in range(7)]
        print(f"one file:   {statistics.median(runs):.3f} s (median of {len(runs)})")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"largest single process: {usage.ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
