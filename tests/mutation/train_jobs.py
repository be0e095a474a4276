"""Many short trainings from one process that has the libraries loaded already.

Reads jobs from standard input, a JSON object a line, trains them one after the other in forked
processes (importing torch costs more than these trainings), and answers each with a line:

    {"folder", "mutant", "script", "arguments", "num_ranks", "num_starts"}  →  {"folder", "status"}

What the trainer prints goes to ``run.log`` in the folder. The end of the input ends the process;
so does a signal, and with it every trainer that it has forked.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from mutants import plant
from run_mutant import HEALTHY

_PR_SET_PDEATHSIG = 1
_PRELOADED = (
    "evenkeel.training.run",
    "evenkeel.training.algorithms.sft",
    "evenkeel.training.algorithms.pretrain",
    "evenkeel.training.algorithms.dpo",
    "evenkeel.training.algorithms.grpo",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.clip.modeling_clip",
)


def main() -> int:
    """Train until the input ends."""
    preload()
    for line in sys.stdin:
        job = json.loads(line)
        status = _train(job)
        print(json.dumps({"folder": job["folder"], "status": status}), flush=True)
    return 0


def preload() -> None:
    """Import what every forked trainer would."""
    for name in _PRELOADED:
        importlib.import_module(name)


def _train(job: Mapping[str, Any]) -> int:
    """All starts of one training; the exit status of the last one that was begun."""
    folder = Path(job["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    status = 0
    for _ in range(job["num_starts"]):
        status = _start(job, folder)
        if status:
            break
    shutil.rmtree(folder / "ckpts", ignore_errors=True)
    return status


def _start(job: Mapping[str, Any], folder: Path) -> int:
    size, port = job["num_ranks"], _free_port()
    ranks: dict[int, int] = {}
    for rank in range(size):
        process = os.fork()
        if process == 0:
            _become_trainer(job, folder, rank, size, port)
        ranks[process] = rank
    worst = 0
    while ranks:
        process, how = os.wait()
        if ranks.pop(process, None) is None:
            continue
        status = os.waitstatus_to_exitcode(how)
        if status and not worst:
            worst = status
            for other in ranks:  # they would wait for the dead one
                os.kill(other, signal.SIGKILL)
    return worst


def _become_trainer(job: Mapping[str, Any], folder: Path, rank: int, size: int, port: int) -> None:
    """Never returns."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    status = 70
    try:
        log = os.open(folder / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        if size > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
            place |= {"LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in place.items()})
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        if job["mutant"] != HEALTHY:
            plant(job["mutant"])
        sys.argv = [job["script"], *job["arguments"]]
        runpy.run_path(job["script"], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
