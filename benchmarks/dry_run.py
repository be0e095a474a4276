"""A dry run of 250 drivers against a shell loop that evals each CONFIG block; start included.

    .venv/bin/python benchmarks/dry_run.py [--drivers 250] [--rounds 9]

Both sides read the same generated drivers and must agree on the total.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LAUNCH = Path(__file__).parents[1] / "tools" / "launch"

DRIVER = """\
#!/bin/bash
SCRIPT_DIR=$( cd -- "$( dirname -- "${{BASH_SOURCE[0]}}" )" &> /dev/null && pwd)
source $SCRIPT_DIR/common.env

# ===== BEGIN CONFIG =====
NUM_NODES={nodes}
{gpus}STEPS_PER_RUN={steps}
MAX_STEPS={max_steps}
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # Round up
NUM_MINUTES={minutes}
# ===== END CONFIG =====

exit_if_max_steps_reached

cd $PROJECT_ROOT
uv run examples/run_sft.py \\
    --config $CONFIG_PATH \\
    sft.max_num_steps=$MAX_STEPS \\
    logger.log_dir=$LOG_DIR \\
    logger.tensorboard_enabled=True \\
    checkpointing.enabled=True \\
    checkpointing.checkpoint_dir=$CKPT_DIR \\
    $@ \\
    2>&1 | tee $RUN_LOG

uv run tests/json_dump_tb_logs.py $LOG_DIR --output_path $JSON_METRICS
if [[ $(jq 'to_entries | .[] | select(.key == "train/loss") | .value | keys | map(tonumber) | max' \
    $JSON_METRICS) -ge $MAX_STEPS ]]; then
    uv run tests/check_metrics.py $JSON_METRICS \\
        'data["train/loss"]["1"] < 1.5' \\
        'data["train/loss"]["{max_steps}"] < 0.5'
fi
"""

SHELL_LOOP = """\
total=0
for driver in "$@"; do
  eval "$(sed -n '/BEGIN CONFIG/,/END CONFIG/p' "$driver" | grep '=')"
  minutes=$(( NUM_RUNS * NUM_NODES * ${GPUS_PER_NODE:-8} * NUM_MINUTES ))
  total=$(( total + minutes ))
  echo "[INFO]: $(( minutes / 60 )) GPUhrs to run $driver"
  unset GPUS_PER_NODE
done
echo "[INFO]: Total GPU minutes: $total"
"""


def write_drivers(folder: Path, count: int) -> list[str]:
    names = []
    for i in range(count):
        text = DRIVER.format(
            nodes=1 << i % 6,
            gpus="GPUS_PER_NODE=4\n" if i % 5 == 0 else "",
            steps=50 + i % 7,
            max_steps=100 + 13 * i,
            minutes=30 * (1 + i % 8),
        )
        path = folder / f"sft-llama3.1-8b-{1 << i % 6}n8g-fsdp2tp1-variant{i}.sh"
        path.write_text(text)
        names.append(str(path))
    return names


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drivers", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dry_run"))
    try:
        drivers = write_drivers(folder, args.drivers)
        environment = {**os.environ, "DRYRUN": "1"}
        sides: dict[str, Callable[[], tuple[float, str]]] = {
            "shell loop": lambda: timed(["bash", "-c", SHELL_LOOP, "loop", *drivers], environment),
            "tools/launch": lambda: timed([str(LAUNCH), *drivers], environment),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        last: dict[str, str] = {}
        for _ in range(args.rounds):  # in turn, so that a busy machine slows both
            for name, side in sides.items():
                seconds, last[name] = side()
                times[name].append(seconds)
        hours = float(last["tools/launch"].rpartition(" ")[2])
        assert round(hours * 60) == int(last["shell loop"].rpartition(" ")[2]), last
    finally:
        shutil.rmtree(folder)
    for name, seconds in times.items():
        print(f"{name:<13} {statistics.median(seconds):6.3f} s median, {min(seconds):6.3f} s best")
    ratio = statistics.median(times["shell loop"]) / statistics.median(times["tools/launch"])
    print(f"{args.drivers} drivers, {args.rounds} rounds: {ratio:.1f} times faster")


if __name__ == "__main__":
    main()
