"""How long a whole night is judged: 250 recipes x 50 metrics x 1,000 steps x 5 baseline runs.

    python benchmarks/compare.py [--recipes 250] [--processes 2] [--from-files]

The other side is what a suite does today for the same files: each metric of the new run against
one golden run with ``isclose(rtol=0.05)``, step by step.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from evenkeel.convergence import baseline as files
from evenkeel.convergence import baseline_recording
from evenkeel.convergence.baseline import Acceptance, Baseline
from evenkeel.convergence.baseline_judgement import compare_evidence
from evenkeel.convergence.comparison import Options
from evenkeel.convergence.error_budget import Budget
from evenkeel.convergence.run_evidence import RunEvidence, read_evidence
from evenkeel.metrics import series
from evenkeel.metrics.series import Metrics

_RUNS: list[Metrics] = []
_BASELINE: list[Baseline] = []


def make_run(seed: int, num_metrics: int, num_steps: int) -> Metrics:
    random = np.random.default_rng(seed)
    steps = list(range(1, num_steps + 1))
    curve = 2 + 5 * np.exp(-np.arange(num_steps) / 100)
    return {
        f"train/loss_{number}": dict(
            zip(
                steps,
                (
                    curve
                    * (1 + 0.003 * random.standard_normal())
                    * (1 + 0.02 * random.standard_normal(num_steps))
                ).tolist(),
                strict=True,
            )
        )
        for number in range(num_metrics)
    }


def judge_in_memory(count: int) -> int:
    """Judge the same recipe ``count`` times: nothing is kept from one time to the next."""
    options = Options(budget=Budget(num_recipes=250), with_advice=False)
    good = 0
    for number in range(count):
        run = RunEvidence("new", _RUNS[number % len(_RUNS)], {})
        good += compare_evidence(_BASELINE[0], [run], options).verdict.exit_code == 0
    return good


def judge_files(folder: Path, numbers: list[int]) -> int:
    options = Options(budget=Budget(num_recipes=250), with_advice=False)
    good = 0
    for number in numbers:
        baseline = files.load(folder / "baseline.json")
        run = read_evidence(folder / f"new{number % 3}.json")
        good += compare_evidence(baseline, [run], options).verdict.exit_code == 0
    return good


def golden(count: int) -> int:
    """One golden run, step by step, as the scripts of today do."""
    reference, good = _RUNS[-1], 0
    for number in range(count):
        run = _RUNS[number % (len(_RUNS) - 1)]
        good += min(
            math.isclose(value, reference[name][step], rel_tol=0.05)
            for name, steps in run.items()
            for step, value in steps.items()
        )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", type=int, default=250)
    parser.add_argument("--metrics", type=int, default=50)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--from-files", action="store_true", help="read every file each time")
    parser.add_argument("--at-most", type=float, default=10.0, metavar="SECONDS")
    args = parser.parse_args()
    runs = [make_run(seed, args.metrics, args.steps) for seed in range(8)]
    evidence = [RunEvidence(f"run{i}", one, {}) for i, one in enumerate(runs[:5])]
    made = baseline_recording.of_evidence(evidence, recipe="", accepted=Acceptance("", "", ""))
    _BASELINE.append(made)
    _RUNS.extend(runs[5:])
    share = [len(part) for part in np.array_split(np.arange(args.recipes), args.processes)]
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(args.processes) as pool:
        folder = Path(name)
        list(pool.map(judge_in_memory, [0] * args.processes))  # the processes are up
        start = time.perf_counter()
        good = sum(pool.map(judge_in_memory, share))
        ours = time.perf_counter() - start
        print(f"{args.recipes} recipes judged in {ours:.2f} s, {good} good")
        start = time.perf_counter()
        sum(pool.map(golden, share))
        other = time.perf_counter() - start
        print(f"golden run +-5 %, step by step: {other:.2f} s; ratio {other / ours:.2f}")
        if args.from_files:
            files.save(made, folder / "baseline.json")
            for number, run in enumerate(runs[5:]):
                series.save(folder / f"new{number}.json", run)
            parts = np.array_split(np.arange(args.recipes), args.processes)
            start = time.perf_counter()
            jobs = [pool.submit(judge_files, folder, part.tolist()) for part in parts]
            for job in jobs:
                job.result()
            print(f"with reading every file: {time.perf_counter() - start:.2f} s")
    return 0 if ours <= args.at_most else 1


if __name__ == "__main__":
    sys.exit(main())
