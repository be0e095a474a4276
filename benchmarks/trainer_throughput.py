"""Tokens per second of the trainer against a bare torch loop of the same model and batches.

    uv run python benchmarks/trainer_throughput.py [--config FILE] [--steps 40] [--rounds 5]

Both sides train in this one process, in turn, round after round, and each counts with its fastest
round, so that other work on the machine spoils neither; the processor time is given beside it.
The trainer's side is everything it does in a step: batches, loss, clipping, schedule, metrics to an
event file. The bare loop gets its batches ready made, reads its loss once a step as any loop that
prints one does, and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional

from evenkeel.recipes import config
from evenkeel.training import models
from evenkeel.training.distributed import joined
from evenkeel.training.run import set_up
from evenkeel.training.stopping import StopRequest

ROOT = Path(__file__).parents[1]
DEFAULT = ROOT / "examples/configs/recipes/llm/sft-llama-0.9m-1n1g-fsdp2tp1.yaml"


class BareLoop:
    """transformers' model, AdamW, cross-entropy, clipping: what one would write by hand."""

    def __init__(self, recipe: config.ResolvedRecipe, batches: list[list[object]]) -> None:
        self.settings = recipe.recipe.policy
        self.model = models.build(recipe.recipe, models.load_config(self.settings))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.settings.optimizer.lr, weight_decay=0.0
        )
        self.batches = batches

    def run(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            (batch,) = self.batches[step - 1]
            logits = self.model(input_ids=batch.input_ids, use_cache=False).logits
            loss = functional.cross_entropy(
                logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=-100
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            loss.item()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, default=DEFAULT)
    parser.add_argument("--steps", type=int, default=40, help="of each side in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.config, arguments.steps, arguments.rounds, Path(folder))
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"bare torch loop  {result['bare_tokens_per_s']:10,.0f} tokens/s")
        print(f"evenkeel trainer {result['trainer_tokens_per_s']:10,.0f} tokens/s")
        print(f"ratio            {result['ratio']:10.3f}   (wanted: at least 0.95)")
        print(f"by processor time{result['processor_time_ratio']:10.3f}")
    return 0 if result["ratio"] >= 0.95 else 1


def measure(path: Path, steps: int, rounds: int, folder: Path) -> dict[str, float]:
    total = steps * (rounds + 1)
    resolved = config.load(
        path,
        [
            f"logger.log_dir={folder / 'logs'}",
            "checkpointing.enabled=false",
            f"sft.max_num_steps={total + 1}",
            "sft.val_period=0",
            "policy.scheduler.name=constant",
        ],
    )
    resolved.recipe.policy.train_micro_batch_size = resolved.recipe.policy.train_global_batch_size
    times: dict[str, list[float]] = {"bare": [], "trainer": []}
    cpu_times: dict[str, list[float]] = {"bare": [], "trainer": []}
    with joined(resolved.recipe) as world:
        loop, log = set_up(resolved, world, say=lambda text: None)
        source = loop.algorithm.batches
        batches = [source.global_batch(step) for step in range(1, total + 1)]
        tokens = [sum(int(b.attention_mask.sum()) for b in batch) for batch in batches]
        bare = BareLoop(resolved, batches)
        resolved.recipe.loop.steps_per_run = steps
        for turn in range(rounds + 1):
            first = turn * steps
            sides = {
                "bare": lambda first=first: bare.run(first + 1, first + steps),
                "trainer": lambda first=first: loop.run(first, StopRequest(None)),
            }
            order = list(sides) if turn % 2 else list(reversed(sides))
            for side in order:
                began, cpu_began = time.perf_counter(), time.process_time()
                sides[side]()
                num_tokens = sum(tokens[first : first + steps])
                times[side].append((time.perf_counter() - began) / num_tokens)
                cpu_times[side].append((time.process_time() - cpu_began) / num_tokens)
        log.close()
    # the first round warms up
    bare_s, trainer_s = (min(times[side][1:]) for side in ("bare", "trainer"))
    bare_cpu_s, trainer_cpu_s = (min(cpu_times[side][1:]) for side in ("bare", "trainer"))
    return {
        "bare_tokens_per_s": 1 / bare_s,
        "trainer_tokens_per_s": 1 / trainer_s,
        "ratio": bare_s / trainer_s,
        "processor_time_ratio": bare_cpu_s / trainer_cpu_s,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    sys.exit(main())
