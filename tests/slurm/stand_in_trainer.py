"""A trainer that trains nothing: it logs, checkpoints, resumes, stops and fails like a real one.

    stand_in_trainer.py RUN_DIR [--max-steps N] [--per-run N] [--step-s S] [--recipe NAME] [WORD...]

With --recipe it notes in run.json what it trains, and the words seed=SEED and policy.numeric_twin=N
move its loss. The other words are faults: hang=STEP (once), nan=STEP, high=STEP (a loss of 50 from
there), memory=STEP, assert=STEP, deaf (ignores requests to stop).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from evenkeel import run_record
from evenkeel.run_lock import RunLock
from evenkeel.run_paths import RunPaths
from evenkeel.run_record import TrainerExit
from evenkeel.training.event_writer import EventWriter


def train(paths: RunPaths, options: argparse.Namespace, faults: dict[str, int]) -> int:
    checkpoint = paths.ckpt_dir / "step"
    paths.ckpt_dir.mkdir(parents=True, exist_ok=True)
    factor = _note_recipe(paths, options.recipe, faults) if options.recipe else 1.0
    first = int(checkpoint.read_text()) + 1 if checkpoint.exists() else 1
    last = min(options.max_steps, first + options.per_run - 1)
    with RunLock(paths) as lock:
        writer = EventWriter(paths.log_dir)
        for step in range(first, last + 1):
            time.sleep(options.step_s)
            if not lock.is_current():
                print("another writer has taken over", flush=True)
                return 1
            loss = float("nan") if faults.get("nan") == step else factor * 5.0 / step
            if step >= faults.get("high", step + 1):
                loss = 50.0
            writer.add_scalars({"train/loss": loss}, step)
            if loss != loss and "deaf" not in faults:
                return TrainerExit.NON_FINITE
            if faults.get("assert") == step:
                raise AssertionError(f"shapes differ at step {step}")
            if faults.get("memory") == step:
                hoard = bytearray(4 << 30)
                time.sleep(60 + len(hoard) * 0)
            if faults.get("hang") == step and not (paths.root / "hung").exists():
                (paths.root / "hung").touch()
                time.sleep(600)
            temporary = checkpoint.with_suffix(".new")
            temporary.write_text(str(step))
            temporary.replace(checkpoint)
            with (paths.root / "trained").open("a") as trained:
                trained.write(f"{step}\n")
            if paths.stop_request.exists() and "deaf" not in faults:
                return TrainerExit.STOPPED
    return TrainerExit.FINISHED


def _note_recipe(paths: RunPaths, name: str, words: dict[str, int]) -> float:
    """Write down what is trained; by how much its loss differs from that of seed 42."""
    seed, twin = words.get("seed", 42), words.get("policy.numeric_twin", 0)
    record = {
        "recipe": name,
        "config": {"seed": seed, "policy": {"numeric_twin": twin}},
        "platform": {"device": "cpu"},
    }
    run_record.add(paths.run_json, record)
    return 1.0 + (seed - 42) * 1e-6 + twin * 1e-7


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("faults", nargs="*")
    parser.add_argument("--max-steps", type=int, default=10)
    parser.add_argument("--per-run", type=int, default=1000)
    parser.add_argument("--step-s", type=float, default=0.05)
    parser.add_argument("--recipe")
    options = parser.parse_args()
    faults = {
        name: int(step or 0) for name, _, step in (word.partition("=") for word in options.faults)
    }
    paths = RunPaths(options.run_dir)
    attempt = run_record.open_attempt(paths.run_json, {})
    status = 1
    try:
        status = train(paths, options, faults)
    finally:
        run_record.close_attempt(paths.run_json, attempt, status)
    return status


if __name__ == "__main__":
    sys.exit(main())
