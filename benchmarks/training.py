"""Our trainers against TRL's: tokens per second, peak memory and final loss, in one run.

    uv run --group benchmarks python benchmarks/training.py [--only CASE] [--rounds 3] [--json]

Each side trains in a process of its own, in turn, round by round, on all cores. Both get the same
weights (a random Llama of 1.8 million parameters over bytes; for GRPO the same ones after 30
supervised steps), records in the same order, batches, lengths, float32, AdamW with the same
settings, a constant learning rate, and log every step. TRL keeps its defaults otherwise, fused
AdamW included. What counts is the time from the end of one step to the end of the next, first
steps apart, and the tokens in it that are predicted: no padding. Peak memory is that of the
process (getrusage).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training_sides import cases
from training_sides.cases import CASES, Case, Report

SIDES = {"evenkeel": "evenkeel_side", "trl": "trl_side"}
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")


@dataclass(frozen=True)
class Compared:
    """Both sides of a case, round by round."""

    name: str
    rounds: dict[str, list[Report]]

    def median(self, side: str, value: str) -> float:
        return statistics.median(getattr(report, value) for report in self.rounds[side])

    def ratio(self, value: str) -> float:
        """Median of the rounds' ratios, ours over theirs: neighbours share the machine."""
        pairs = zip(self.rounds["evenkeel"], self.rounds["trl"], strict=True)
        return statistics.median(getattr(a, value) / getattr(b, value) for a, b in pairs)

    @property
    def is_good(self) -> bool:
        return self.ratio("tokens_per_s") >= CASES[self.name].wanted

    def as_json(self) -> dict[str, Any]:
        sides = {
            side: {
                "tokens_per_s": self.median(side, "tokens_per_s"),
                "tokens_per_s_by_round": [report.tokens_per_s for report in reports],
                "tokens_per_processor_s": self.median(side, "tokens_per_processor_s"),
                "peak_rss_mib": self.median(side, "peak_rss_mib"),
                "rss_before_training_mib": self.median(side, "rss_before_training_mib"),
                "final": self.final(side),
                "num_threads": reports[0].num_threads,
            }
            for side, reports in self.rounds.items()
        }
        return {
            "case": self.name,
            "ratio": self.ratio("tokens_per_s"),
            "ratio_by_processor_time": self.ratio("tokens_per_processor_s"),
            "wanted": CASES[self.name].wanted,
            "final_metric": CASES[self.name].final_metric,
            **sides,
        }

    def final(self, side: str) -> float:
        """Mean of the final metric over the last steps of all rounds."""
        return statistics.fmean(x for report in self.rounds[side] for x in report.finals)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(CASES), action="append", help="repeatable")
    parser.add_argument("--steps", type=int, help="measured ones (default: by case, 10 to 16)")
    parser.add_argument("--rounds", type=int, default=3, help="of each case (default 3)")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name, case in CASES.items():
        CASES[name] = replace(case, num_steps=arguments.steps or case.num_steps)
    names = arguments.only or list(CASES)
    if arguments.side:
        measure_side(arguments.side, CASES[names[0]], arguments.folder)
        return 0
    compared = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            compared.append(compare(name, arguments.rounds, Path(folder), arguments.threads))
    if arguments.json:
        results = [case.as_json() for case in compared]
        found = conditions(arguments.threads)
        print(json.dumps({"conditions": found, "cases": results}, indent=2))
    else:
        print_table(compared, arguments.threads)
    return 0 if all(case.is_good for case in compared) else 1


def compare(name: str, rounds: int, folder: Path, threads: int) -> Compared:
    """Run both sides of a case in turn."""
    case = CASES[name]
    model = folder / "model"
    cases.write_records(case, folder / "records.jsonl")
    from training_sides import evenkeel_side

    evenkeel_side.write_model(folder, model, warm_start=case.algorithm == "grpo")
    found: dict[str, list[Report]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in list(SIDES)[:: -1 if number % 2 else 1]:
            found[side].append(started(side, name, folder, threads))
            note = f"{name} round {number + 1}/{rounds} {side}"
            print(f"{note}: {found[side][-1].tokens_per_s:,.0f} tokens/s", file=sys.stderr)
    return Compared(name, found)


def started(side: str, name: str, folder: Path, threads: int) -> Report:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--only", name, "--folder", str(folder)]
    command += ["--steps", str(CASES[name].num_steps)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": str(threads),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{side} failed at {name}:\n{done.stderr[-3000:]}")
    return cases.read_report(folder / f"{side}.json")


def measure_side(side: str, case: Case, folder: Path) -> None:
    module = importlib.import_module(f"training_sides.{SIDES[side]}")
    cases.write_report(module.measure(case, folder, folder / "model"), folder / f"{side}.json")


def print_table(compared: list[Compared], threads: int) -> None:
    print("  ".join(f"{key} {value}" for key, value in conditions(threads).items()))
    print("                   tokens/s        ratio                  peak MiB         final")
    print("case         evenkeel     TRL   wall   proc  wanted  evenkeel   TRL   evenkeel     TRL")
    for case in compared:
        speeds = [case.median(side, "tokens_per_s") for side in SIDES]
        ratios = [case.ratio(value) for value in ("tokens_per_s", "tokens_per_processor_s")]
        peaks = [case.median(side, "peak_rss_mib") for side in SIDES]
        finals = [case.final(side) for side in SIDES]
        print(
            f"{case.name:<12} {speeds[0]:8,.0f} {speeds[1]:7,.0f} {ratios[0]:6.2f} {ratios[1]:6.2f}"
            f" {CASES[case.name].wanted:7.1f} {peaks[0]:9,.0f} {peaks[1]:5,.0f}"
            f" {finals[0]:10.4f} {finals[1]:7.4f}  {CASES[case.name].final_metric}"
        )
    print("medians; proc: by processor time; final: mean over the last quarter of the steps")


def conditions(threads: int, packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip() or "unknown",
        "cores": str(len(os.sched_getaffinity(0))),
        "threads": str(threads),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


if __name__ == "__main__":
    sys.exit(main())
