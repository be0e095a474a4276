"""Peak memory and time of a training step with all logits at once and in chunks.

    python benchmarks/chunked_logits.py

Each side runs in a process of its own; both train the same model on the same tokens.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evenkeel.training.backends.chunked_head import ChunkedHead, ChunkedOutput
from evenkeel.training.backends.interface import ModelOutput

VOCABULARY, POSITIONS, CHUNK, STEPS = 64_000, 512, 64, 2


def step(model: LlamaForCausalLM, ids: torch.Tensor, head: ChunkedHead | None) -> float:
    """Forward, backward; the loss."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    output = ModelOutput(logits) if head is None else ChunkedOutput(logits, head)
    loss = output.sum_of_token_losses(ids[:, 1:]) / POSITIONS
    torch.autograd.backward(loss)
    model.zero_grad()
    return float(loss.detach())


def measure(chunk: int) -> dict[str, float]:
    """One side; ``chunk`` 0: all logits at once."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    head = ChunkedHead(model.get_output_embeddings(), chunk) if chunk else None
    ids = torch.randint(0, VOCABULARY, (1, POSITIONS))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    losses = [step(model, ids, head) for _ in range(STEPS)]
    seconds = (time.process_time() - began) / STEPS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"loss": losses[-1], "cpu_s_per_step": seconds, "added_mib": (peak - before) / 1024}


def main() -> None:
    """Both sides and their ratio."""
    sides = {}
    for name, chunk in (("all at once", 0), ("in chunks", CHUNK)):
        command = [sys.executable, __file__, str(chunk)]
        sides[name] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        print(f"{name:12} {sides[name]}")
    whole, chunked = sides["all at once"], sides["in chunks"]
    print(f"memory: {chunked['added_mib'] / whole['added_mib']:.2f} of all at once")
    print(f"time: {chunked['cpu_s_per_step'] / whole['cpu_s_per_step']:.2f} of all at once")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
