"""Our trainers against a bare transformers loop on one GPU, in bf16: tokens per second and MFU.

    python benchmarks/gpu_training.py [--only CASE] [--size 1b|tiny] [--device cuda|cpu]
                                      [--rounds 3] [--steps N] [--compile] [--json]

Each side trains in a process of its own, in turn, round by round. Both get the same random weights
(float32, computed with in bf16), the same tokens in full rows, SDPA attention, AdamW, clipping, and
with ``--compile`` torch.compile on every layer; the bare loop (``training_sides/bare_side.py``)
gets its batches ready-made and generates with transformers' ``generate``.

Tokens per second are those of the rows (sft) or of the answers (grpo). MFU is the model FLOPs of
the training pass, 6N + 12·L·H·Q·T per token that passes through it
(``evenkeel.training.throughput``), over the step's whole time and the card's dense bf16 peak; of
grpo the passes of generation and reference take time and do not count. It is left blank where the
device's peak is not known.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from training import conditions
from training_sides import cases, evenkeel_side, gpu_cases
from training_sides.bare_side import BareLoop
from training_sides.cases import Case
from training_sides.gpu_cases import Measured, Size

from evenkeel.recipes.schema import Precision
from evenkeel.training import models
from evenkeel.training.step_meter import flops_per_token
from evenkeel.training.throughput import max_memory_gib, peak_flops

SIDES = ("evenkeel", "bare")
PACKAGES = ("torch", "transformers")


@dataclass(frozen=True)
class Compared:
    """Both sides of a case, round by round."""

    name: str
    rounds: dict[str, list[Measured]]
    flops_per_token: float
    num_params: int

    def tokens_per_s(self, side: str) -> float:
        """Median of the rounds."""
        return statistics.median(each.steps.tokens_per_s for each in self.rounds[side])

    def mfu(self, side: str) -> float | None:
        """Of 1; None where the device's peak is not known."""
        peak = peak_flops(self.rounds[side][0].device, Precision.BFLOAT16)
        if peak is None:
            return None
        rate = statistics.median(each.passed_tokens_per_s for each in self.rounds[side])
        return rate * self.flops_per_token / peak

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints of a case."""
        sides = {
            side: {
                "tokens_per_s": self.tokens_per_s(side),
                "tokens_per_s_by_round": [each.steps.tokens_per_s for each in measured],
                "mfu": self.mfu(side),
                "peak_gib": max(each.peak_gib for each in measured),
                "final": self.final(side),
            }
            for side, measured in self.rounds.items()
        }
        return {
            "case": self.name,
            "ratio": self.ratio,
            "num_params": self.num_params,
            "flops_per_token": self.flops_per_token,
            **sides,
        }

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios, ours over theirs."""
        pairs = zip(*(self.rounds[side] for side in SIDES), strict=True)
        return statistics.median(a.steps.tokens_per_s / b.steps.tokens_per_s for a, b in pairs)

    def final(self, side: str) -> float:
        """Mean of the final metric over the last steps of all rounds."""
        return statistics.fmean(x for each in self.rounds[side] for x in each.steps.finals)


def main() -> int:
    arguments = parsed()
    size = gpu_cases.sizes()[arguments.size]
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU here; --device cpu --size tiny runs both sides", file=sys.stderr)
        return 3
    names = arguments.only or list(size.cases)
    if arguments.side:
        measure_side(arguments, size, with_steps(size.cases[names[0]], arguments.steps))
        return 0
    compared = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            arguments.folder = Path(folder)
            compared.append(compare(name, size, arguments))
    found = found_conditions(arguments, compared)
    if arguments.json:
        results = [case.as_json() for case in compared]
        print(json.dumps({"conditions": found, "cases": results}, indent=2))
    else:
        print_table(compared, found)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("sft", "grpo"), action="append", help="repeatable")
    parser.add_argument("--size", choices=list(gpu_cases.sizes()), default="1b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=3, help="of each case (default 3)")
    parser.add_argument("--steps", type=int, help="measured ones (default: by size and case)")
    parser.add_argument("--compile", action="store_true", help="torch.compile, on both sides")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def with_steps(case: Case, num_steps: int | None) -> Case:
    return replace(case, num_steps=num_steps or case.num_steps)


def compare(name: str, size: Size, arguments: argparse.Namespace) -> Compared:
    """Run both sides of a case in turn."""
    case = with_steps(size.cases[name], arguments.steps)
    gpu_cases.write_records(size, case, arguments.folder / "records.jsonl")
    found: dict[str, list[Measured]] = {side: [] for side in SIDES}
    for number in range(arguments.rounds):
        for side in SIDES[:: -1 if number % 2 else 1]:
            found[side].append(started(side, name, arguments))
            speed = found[side][-1].steps.tokens_per_s
            note = f"{name} round {number + 1}/{arguments.rounds} {side}"
            print(f"{note}: {speed:,.0f} tokens/s", file=sys.stderr)
    config = models.described_config(dict(size.model))
    num_params = models.num_parameters(models.build_on_meta(config))
    return Compared(name, found, flops_per_token(config, case.max_length), num_params)


def started(side: str, name: str, arguments: argparse.Namespace) -> Measured:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--only", name]
    command += ["--size", arguments.size, "--device", arguments.device]
    command += ["--folder", str(arguments.folder)]
    command += ["--steps", str(arguments.steps)] if arguments.steps else []
    command += ["--compile"] if arguments.compile else []
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{side} failed at {name}:\n{done.stderr[-3000:]}")
    return gpu_cases.read_measured(arguments.folder / f"{side}.json")


def measure_side(arguments: argparse.Namespace, size: Size, case: Case) -> None:
    """Train one side in this process, and write what was measured."""
    num_steps = case.num_steps + cases.WARM_UP_STEPS
    more = gpu_cases.overrides(size, case, arguments.device, arguments.compile)
    resolved = evenkeel_side.resolve(case, arguments.folder, None, num_steps, more)
    device = (
        torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    )
    if arguments.side == "bare":
        steps, passed = BareLoop(resolved.recipe, case, device).train(num_steps)
    else:
        watched = evenkeel_side.train(resolved, case)
        steps, passed = watched.steps, watched.passed
    measured = Measured(
        steps.report(arguments.side, torch.get_num_threads()),
        passed[cases.WARM_UP_STEPS :],
        max_memory_gib(device),
        torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
    )
    gpu_cases.write_measured(measured, arguments.folder / f"{arguments.side}.json")


def found_conditions(arguments: argparse.Namespace, compared: list[Compared]) -> dict[str, str]:
    """Date, commit, versions, and what was trained on what."""
    shared = conditions(torch.get_num_threads(), PACKAGES)
    return {
        **shared,
        "device": compared[0].rounds["evenkeel"][0].device,
        "cuda": str(torch.version.cuda),
        "size": arguments.size,
        "parameters": f"{compared[0].num_params:,}",
        "compiled": str(arguments.compile).lower(),
        "evenkeel": version("evenkeel"),
    }


def print_table(compared: list[Compared], found: dict[str, str]) -> None:
    print("  ".join(f"{key} {value}" for key, value in found.items()))
    print("              tokens/s               MFU           peak GiB             final")
    print("case     evenkeel    bare  ratio  evenkeel  bare  evenkeel   bare  evenkeel    bare")
    for case in compared:
        speeds = [case.tokens_per_s(side) for side in SIDES]
        used = [case.mfu(side) for side in SIDES]
        shown = ["" if each is None else f"{each:.1%}" for each in used]
        peaks = [max(each.peak_gib for each in case.rounds[side]) for side in SIDES]
        finals = [case.final(side) for side in SIDES]
        print(
            f"{case.name:<8} {speeds[0]:8,.0f} {speeds[1]:7,.0f} {case.ratio:6.2f}"
            f" {shown[0]:>9} {shown[1]:>5} {peaks[0]:9.2f} {peaks[1]:6.2f}"
            f" {finals[0]:9.3f} {finals[1]:7.3f}"
        )
    print("medians; final, mean of the last steps: loss (sft), tokens of an answer (grpo)")


if __name__ == "__main__":
    sys.exit(main())
