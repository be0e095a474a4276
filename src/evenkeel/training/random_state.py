"""Random number generators of one rank: seeded, saved and restored."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch


def seed(seed: int, data_parallel_rank: int, step: int = 0) -> None:
    """Seed all generators from the recipe's seed, the rank's share of the data and the step.

    Tensor-parallel ranks of one share draw the same numbers, so that what they each compute for
    themselves stays equal.
    """
    mixed = (seed * 1_000_003 + data_parallel_rank) * 1_000_003 + step
    random.seed(mixed)
    torch.manual_seed(mixed % 2**63)


def save(folder: Path, rank: int) -> None:
    """Write the state of all generators to ``folder``, synced to disk."""
    state: dict[str, Any] = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    with _file(folder, rank).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def load(folder: Path, rank: int) -> bool:
    """Restore what ``save`` wrote; False when this rank did not exist then."""
    path = _file(folder, rank)
    if not path.is_file():
        return False
    state = torch.load(path, weights_only=True)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    return True


def _file(folder: Path, rank: int) -> Path:
    return folder / f"rng_rank{rank}.pt"
