"""Run as a script on each rank: train several times, with something that happens to one rank.

The argument is a JSON list of [rank, fault, algorithm, arguments, port]; ``fault`` is one of
``FAULTS`` and happens to ``rank`` alone. Prints a JSON list of [exit status, standard error] of
this rank. Each training is a fork of its own, so that the libraries are imported once.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from transformers import AutoConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

from evenkeel.recipes.schema import Algorithm
from evenkeel.training.algorithms.sft import Sft
from evenkeel.training.backends.megatron import backend  # noqa: F401
from evenkeel.training.run import main

STEP = 3
"""The step in which it happens."""


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def get_no_more_memory() -> None:
    """The system hands out only a little more, as if others had taken the rest."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (2 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def before(name: str, step_of: Callable[..., int], act: Callable[[], None]) -> None:
    """Let ``act`` happen in ``STEP``, before a method of the algorithm is called."""
    original = getattr(Sft, name)

    @functools.wraps(original)
    def failing(self: Sft, argument: object) -> object:
        if step_of(argument) == STEP:
            act()
        return original(self, argument)

    setattr(Sft, name, failing)


def saved_step(folder: Path) -> int:
    """Of a checkpoint's hidden folder; the backend has written its part when this is asked."""
    return int(folder.name.rpartition("_")[2])


def lose_a_shard(checkpoints: Path) -> None:
    """Of the latest checkpoint, before the training begins."""
    max(checkpoints.glob("step_*")).joinpath("model/__1_0.distcp").unlink()


FAULTS: dict[str, Callable[[Path], None]] = {
    "none": lambda _: None,
    "killed": lambda _: before("train_step", int, be_killed),
    "killed while it saves": lambda _: before("save", saved_step, be_killed),
    "out of memory": lambda _: before("train_step", int, get_no_more_memory),
    "a shard is missing": lose_a_shard,
}


def start(fault: str, algorithm: Algorithm, arguments: list[str]) -> tuple[int, str]:
    """(status, standard error) of one training; a signal's status is its negative number."""
    checkpoints = next(a for a in arguments if a.startswith("checkpointing.checkpoint_dir="))
    with tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            os.dup2(2, 1)
            FAULTS[fault](Path(checkpoints.partition("=")[2]))
            os._exit(main(algorithm, arguments))
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return os.waitstatus_to_exitcode(status), errors.read()


if __name__ == "__main__":
    found = []
    for rank, fault, algorithm, arguments, port in json.loads(sys.argv[1]):
        os.environ["MASTER_PORT"] = str(port)
        happens = fault if os.environ["RANK"] == str(rank) else "none"
        found.append(start(happens, Algorithm(algorithm), arguments))
    print(json.dumps(found))
