"""Tokens per second of the trainer against a bare torch loop of the same model and batches.

    uv run python benchmarks/trainer_throughput.py [--config FILE] [--steps 200]

Both sides train in this one process, a step of one and a step of the other in turn, and each counts
with its median step, so that other work on the machine meets both alike; the ratio of processor
times is given beside it. The trainer's side is everything it does in a step: batches, loss,
clipping, schedule, metrics to an event file. The bare loop gets its batches ready made, reads its
loss once a step as any loop that prints one does, and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
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

    def step(self, step: int) -> None:
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
    parser.add_argument("--steps", type=int, default=200, help="of each side")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.config, arguments.steps, Path(folder))
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"bare torch loop  {result['bare_tokens_per_s']:10,.0f} tokens/s")
        print(f"evenkeel trainer {result['trainer_tokens_per_s']:10,.0f} tokens/s")
        print(f"ratio            {result['ratio']:10.3f}   (wanted: at least 0.95)")
        print(f"by processor time{result['processor_time_ratio']:10.3f}")
    return 0 if result["ratio"] >= 0.95 else 1


WARM_UP = 5
"""First steps of each side that do not count: they allocate."""


def measure(path: Path, steps: int, folder: Path) -> dict[str, float]:
    resolved = config.load(
        path,
        [
            f"logger.log_dir={folder / 'logs'}",
            "checkpointing.enabled=false",
            f"sft.max_num_steps={WARM_UP + steps + 1}",
            "sft.steps_per_run=1",
            "sft.val_period=0",
        ],
    )
    policy = resolved.recipe.policy
    policy.train_micro_batch_size = policy.train_global_batch_size
    wall: dict[str, list[float]] = {"bare": [], "trainer": []}
    processor: dict[str, list[float]] = {"bare": [], "trainer": []}
    with joined(resolved.recipe) as world:
        loop, log = set_up(resolved, world, say=lambda text: None)
        source = loop.algorithm.batches
        batches = [source.global_batch(step) for step in range(1, WARM_UP + steps + 1)]
        bare = BareLoop(resolved, batches)
        sides = {"bare": bare.step, "trainer": lambda step: loop.run(step - 1, StopRequest(None))}
        for step, batch in enumerate(batches, 1):
            num_tokens = int(batch[0].attention_mask.sum())
            for side in list(sides)[:: 1 if step % 2 else -1]:
                began, processor_began = time.perf_counter(), time.process_time()
                sides[side](step)
                wall[side].append((time.perf_counter() - began) / num_tokens)
                processor[side].append((time.process_time() - processor_began) / num_tokens)
        log.close()
    seconds = {side: statistics.median(values[WARM_UP:]) for side, values in wall.items()}
    busy = {side: statistics.median(values[WARM_UP:]) for side, values in processor.items()}
    return {
        "bare_tokens_per_s": 1 / seconds["bare"],
        "trainer_tokens_per_s": 1 / seconds["trainer"],
        "ratio": seconds["bare"] / seconds["trainer"],
        "processor_time_ratio": busy["bare"] / busy["trainer"],
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    sys.exit(main())
