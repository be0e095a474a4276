"""Run as a script: start a trainer over and over, kill it with -9, and let the last one finish.

A child is forked for each start, so that the libraries are imported once. Prints how many were
killed while a checkpoint was half written.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from transformers import AutoConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

from evenkeel.recipes.schema import Algorithm
from evenkeel.training.run import main


def start(arguments: list[str]) -> int:
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr
        os._exit(main(Algorithm.SFT, arguments))
    return child


def saved(folder: Path) -> int:
    return len(list(folder.glob("step_*"))) if folder.is_dir() else 0


def kill_while_saving(child: int, folder: Path) -> bool:
    """Kill once a half-written checkpoint with a file in it is there; whether that was in time."""
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        halves = list(folder.glob(".saving-*/*/*"))
        if halves:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return bool(list(folder.glob(".saving-*")))
        time.sleep(0.0005)
    return False


def kill_after(child: int, seconds: float) -> None:
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    arguments, folder = json.loads(sys.argv[1])
    hits = 0
    for attempt in range(4):
        hits += kill_while_saving(start(arguments), Path(folder))
        kill_after(start([*arguments, "sft.steps_per_run=2"]), 0.4 * attempt)
    _, status = os.waitpid(start(arguments), 0)
    assert status == 0, status
    print(json.dumps(hits))
