"""Real but tiny trainings for tests: in this process, or on two gloo ranks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from evenkeel.metrics.collection import collect
from evenkeel.recipes.schema import Algorithm

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
TRAINER = ROOT / "examples/run_sft.py"

Curves = Mapping[str, Mapping[int, float]]


def tiny(algorithm: Algorithm) -> Path:
    """The recipe that tests train of an algorithm."""
    if algorithm is Algorithm.SFT:
        return TINY
    return TINY.with_name(f"tiny_{algorithm.value}.yaml")


def arguments(
    folder: Path, overrides: Sequence[str] = (), algorithm: Algorithm = Algorithm.SFT
) -> list[str]:
    """The trainer's command line for a run whose files lie in ``folder``."""
    return [
        "--config",
        str(tiny(algorithm)),
        f"logger.log_dir={folder / 'logs'}",
        f"checkpointing.checkpoint_dir={folder / 'ckpts'}",
        *overrides,
    ]


def train(folder: Path, *overrides: str, algorithm: Algorithm = Algorithm.SFT) -> int:
    """Train in this process; the result is the exit status."""
    from evenkeel.training.run import main

    return main(algorithm, arguments(folder, overrides, algorithm))


def curves(folder: Path) -> Curves:
    """Everything that was logged, by metric and step."""
    return collect(folder / "logs").metrics


def losses(folder: Path) -> dict[int, float]:
    """``train/loss`` by step."""
    return dict(curves(folder)["train/loss"])


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun would set for a rank, with one thread each."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_"))}
    return {
        **kept,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    """A port that nobody listens on now, below those that systems hand out unasked.

    Trainings open many connections of their own before the last of these ports is used.
    """
    for port in random.SystemRandom().sample(range(15000, 32000), 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def train_on_two_ranks(
    runs: Sequence[tuple[Path, Sequence[str]]], algorithm: Algorithm = Algorithm.SFT
) -> list[int]:
    """Each (folder, overrides) in turn on one pair of processes; rank 0's exit statuses."""
    return train_all_on_two_ranks([(algorithm, *run) for run in runs])


def train_all_on_two_ranks(runs: Sequence[tuple[Algorithm, Path, Sequence[str]]]) -> list[int]:
    """As ``train_on_two_ranks``, with an algorithm for each run."""
    return train_all_on_ranks(2, runs)


def train_all_on_ranks(
    num_ranks: int, runs: Sequence[tuple[Algorithm, Path, Sequence[str]]]
) -> list[int]:
    """Each run in turn on one set of processes; rank 0's exit statuses.

    One set for all of them, because starting a process costs more than these trainings.
    """
    jobs = json.dumps(
        [
            [algorithm.value, arguments(folder, overrides, algorithm), free_port()]
            for algorithm, folder, overrides in runs
        ]
    )
    port = free_port()
    script = Path(__file__).with_name("several_trainings.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), jobs],
            env=environment(rank, num_ranks, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        outputs = [rank.communicate(timeout=240) for rank in ranks]
    except subprocess.TimeoutExpired:
        for rank in ranks:
            rank.kill()
        # each has written where it stands
        outputs = [rank.communicate() for rank in ranks]
        pytest.fail(f"{num_ranks} ranks hang: {outputs}")
    assert [rank.returncode for rank in ranks] == [0] * num_ranks, outputs
    statuses: list[int] = json.loads(outputs[0][0].splitlines()[-1])
    return statuses
