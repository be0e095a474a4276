"""Launches a suite again and again, kills the launcher at a random moment, and picks it up.

A program of its own: it loads everything once and forks, so that a round costs what a launch
costs and not what importing costs. Prints one line of JSON per round.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from evenkeel.cli.main import main

ROOT, ROUNDS, SEED = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


def launch(folder: Path, *more: str) -> int:
    """Start a launcher as a child; the result is its process id."""
    child = os.fork()
    if child:
        return child
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    words = ["launch", "--suite", "nightly", "--root", str(ROOT), "--snapshot-dir", str(folder)]
    os._exit(main([*words, *more]))


def wait_s(child: int) -> tuple[float, int]:
    start = time.monotonic()
    _, status = os.waitpid(child, 0)
    return time.monotonic() - start, os.waitstatus_to_exitcode(status)


def rounds() -> None:
    import nemo_run  # noqa: F401 - so that the children have it

    chance = random.Random(SEED)
    wait_s(launch(ROOT / "warm"))
    whole_s, status = wait_s(launch(ROOT / "whole"))
    assert status == 0
    for number in range(ROUNDS):
        folder = ROOT / f"round{number}"
        child = launch(folder)
        after_s = chance.uniform(0, whole_s)
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
        _, killed = wait_s(child)
        _, picked_up = wait_s(launch(folder, "--resume"))
        line = {"folder": str(folder), "after_s": after_s, "killed": killed, "status": picked_up}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    os.chdir(ROOT)
    rounds()
