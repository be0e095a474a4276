"""``evenkeel collect`` against TensorBoard's EventAccumulator, on one log directory.

    uv run python benchmarks/collect.py [--tags 100] [--steps 2000] [--per-step] [--rounds 5]

Both are whole commands, the start of Python included: ``evenkeel collect``, and a script that reads
the scalars through EventAccumulator and dumps the same JSON. They run in turn, so that a busy
machine slows both; what they wrote is compared. Prints the best times, the processor times and
their ratios, and ends in status 1 where the ratio of the best times is below ``--at-least``.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

ACCUMULATOR_SCRIPT = """\
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
accumulator.Reload()
metrics = {
    tag: {str(event.step): event.value for event in accumulator.Scalars(tag)}
    for tag in sorted(accumulator.Tags()["scalars"])
}
with open(sys.argv[2], "w") as file:
    json.dump(metrics, file)
"""


@dataclass(frozen=True)
class Cost:
    wall_s: float
    processor_s: float


def write_events(log_dir: Path, num_tags: int, num_steps: int, per_step: bool) -> Path:
    """One event per scalar, as SummaryWriter logs them, or one per step, as evenkeel's trainer."""
    rng = random.Random(0)
    writer = EventFileWriter(str(log_dir), max_queue_size=1000)
    for step in range(1, num_steps + 1):
        values = [
            Summary.Value(tag=f"group{tag % 7}/metric_{tag}", simple_value=rng.gauss(2, 1))
            for tag in range(num_tags)
        ]
        for together in [values] if per_step else [[value] for value in values]:
            writer.add_event(
                Event(wall_time=1.7e9 + step, step=step, summary=Summary(value=together))
            )
    writer.close()
    (path,) = log_dir.iterdir()
    return path


def cost_of(command: list[str]) -> Cost:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall_s, processor_s)


def best(costs: list[Cost]) -> Cost:
    return Cost(min(cost.wall_s for cost in costs), min(cost.processor_s for cost in costs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tags", type=int, default=100)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument(
        "--per-step", action="store_true", help="one event per step, not per scalar"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-least", type=float, default=6.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "logs").mkdir()
        size = write_events(root / "logs", args.tags, args.steps, args.per_step).stat().st_size
        script = root / "accumulator.py"
        script.write_text(ACCUMULATOR_SCRIPT)
        ours, theirs = root / "ours.json", root / "theirs.json"
        commands = {
            "evenkeel collect": [
                str(Path(sys.executable).with_name("evenkeel")),
                *("collect", str(root / "logs"), "--output", str(ours)),
            ],
            "EventAccumulator": [sys.executable, str(script), str(root / "logs"), str(theirs)],
        }
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                costs[name].append(cost_of(command))
        same = json.loads(ours.read_text()) == json.loads(theirs.read_text())
    print(f"{args.tags * args.steps:,} scalars, {size / 1e6:.1f} MB, best of {args.rounds}")
    for name, measured in costs.items():
        cost = best(measured)
        print(f"{name:18} {cost.wall_s:6.3f} s, processor {cost.processor_s:.3f} s")
    fast, slow = best(costs["evenkeel collect"]), best(costs["EventAccumulator"])
    ratio = slow.wall_s / fast.wall_s
    print(f"ratio {ratio:.1f} (processor {slow.processor_s / fast.processor_s:.1f})")
    print(f"same values: {'yes' if same else 'NO'}")
    return 0 if same and ratio >= args.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
