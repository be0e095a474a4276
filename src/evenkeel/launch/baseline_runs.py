"""Train a recipe several times with different seeds, keeping the evidence of every run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from evenkeel import run_record
from evenkeel.errors import EXIT_INPUT, EXIT_MACHINE, EvenkeelError, InputError, MachineError
from evenkeel.run_paths import RunPaths

FIRST_SEED = 1001


def record(driver: Path, num_runs: int, evidence: Path | None = None) -> list[Path]:
    """Run ``driver`` with seeds 1001, 1002, …; the result are the run directories.

    A run that is complete from an earlier call is taken as it is, one that was interrupted goes
    on from its checkpoint: after Ctrl-C, call again.

    Args:
        driver: of the recipe.
        num_runs: how many, at least 1.
        evidence: where the runs are kept, one folder per seed; default beside the driver.

    Raises:
        InputError: ``num_runs`` is not positive, or the driver refused its input.
        EvenkeelError: a run did not finish; those before it are kept.
    """
    if num_runs < 1:
        raise InputError(f"--runs is {num_runs}, not a positive number")
    # a driver's own results are in the folder of its name; these must not mix with them
    folder = (evidence or driver.with_name(f"{driver.stem}.baseline")).resolve()
    made = []
    for number, seed in enumerate(range(FIRST_SEED, FIRST_SEED + num_runs), start=1):
        paths = RunPaths(folder / f"seed{seed}" / driver.stem)
        train_with_seed(driver, seed, paths, f"run {number} of {num_runs}")
        made.append(paths.root)
    return made


def _finished(paths: RunPaths) -> bool:
    attempts = run_record.read(paths.run_json)["attempts"]
    return bool(attempts) and attempts[-1]["exit_status"] == 0 and paths.verdict.exists()


def train_with_seed(
    driver: Path, seed: int, paths: RunPaths, what: str, arguments: Sequence[str] = ()
) -> None:
    """Run ``driver`` with another seed and another results folder, unless that is done already.

    Args:
        driver: of the recipe.
        seed: overrides the recipe's.
        paths: where the results go.
        what: the run, in words, for whoever waits.
        arguments: further ones of the driver.

    Raises:
        InputError: the driver refused its input.
        EvenkeelError: the run did not finish; call it again to go on.
    """
    if _finished(paths):
        print(f"[INFO] {what}, seed {seed}: done before", file=sys.stderr)
        return
    print(f"[INFO] {what}, seed {seed}: {paths.root}", file=sys.stderr)
    environment = {**os.environ, "EVENKEEL_EXP_DIR": str(paths.root)}
    argv = ["bash", str(driver), *arguments, f"seed={seed}"]
    try:
        done = subprocess.run(argv, env=environment, check=False)
    except OSError as error:
        raise MachineError(f"cannot start the driver: {error.strerror}", path=driver) from error
    if _finished(paths):
        return  # what it is worth is for the person who accepts the baseline to say
    failures = {EXIT_INPUT: InputError, EXIT_MACHINE: MachineError}
    raise failures.get(done.returncode, EvenkeelError)(
        f"the run with seed {seed} ended with status {done.returncode} before it was finished",
        path=paths.run_log,
        fix="mend what its log says and call again; runs that are finished are kept",
    )
