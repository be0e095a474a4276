"""Train a recipe several times, with other seeds and as twins, keeping every run's evidence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from evenkeel import run_record
from evenkeel.errors import EXIT_INPUT, EXIT_MACHINE, EvenkeelError, InputError, MachineError
from evenkeel.run_paths import RunPaths

FIRST_SEED = 1001


def planned_runs(num_runs: int, num_twins: int) -> dict[str, tuple[str, ...]]:
    """The runs of a baseline: what each is called, and the arguments that its driver gets.

    Args:
        num_runs: seeds, at least 1: the recipe's own comes first, then 1001, 1002, …
        num_twins: of the recipe's own seed; they come last.

    Raises:
        InputError: ``num_runs`` is not positive, or ``num_twins`` is negative.
    """
    if num_runs < 1:
        raise InputError(f"--runs is {num_runs}, not a positive number")
    if num_twins < 0:
        raise InputError(f"--twins is {num_twins}, not a number of runs")
    seeds = range(FIRST_SEED, FIRST_SEED + num_runs - 1)
    twins = range(1, num_twins + 1)
    planned: dict[str, tuple[str, ...]] = {"own-seed": ()}
    planned |= {f"seed{seed}": (f"seed={seed}",) for seed in seeds}
    planned |= {f"twin{number}": (f"policy.numeric_twin={number}",) for number in twins}
    return planned


def record(
    driver: Path, num_runs: int, evidence: Path | None = None, *, num_twins: int = 0
) -> list[Path]:
    """Run ``driver`` as every night will, and with other seeds; the run directories.

    The recipe's own seed comes first, then 1001, 1002, …; its numeric twins come last. A run that
    is complete from an earlier call is taken as it is, one that was interrupted goes on from its
    checkpoint: after Ctrl-C, call again.

    Args:
        driver: of the recipe.
        num_runs: how many, at least 1.
        evidence: where the runs are kept, one folder each; default beside the driver.
        num_twins: of the recipe's own seed, for the comparison of runs of that seed.

    Raises:
        InputError: ``num_runs`` is not positive, ``num_twins`` is negative, or the driver refused
            its input.
        EvenkeelError: a run did not finish; those before it are kept.
    """
    planned = planned_runs(num_runs, num_twins)
    # a driver's own results are in the folder of its name; these must not mix with them
    folder = (evidence or driver.with_name(f"{driver.stem}.baseline")).resolve()
    made = []
    for number, (name, arguments) in enumerate(planned.items(), start=1):
        paths = RunPaths(folder / name / driver.stem)
        train(driver, arguments, paths, f"run {number} of {len(planned)}, {name}")
        made.append(paths.root)
    return made


def is_finished(paths: RunPaths) -> bool:
    """Whether a run did all of its steps and was judged, whatever the judgement.

    What it is worth is for the person who accepts the baseline to say.
    """
    return _ended_well(paths) and _steps_left(paths) == 0


def _ended_well(paths: RunPaths) -> bool:
    attempts = run_record.read(paths.run_json)["attempts"]
    return bool(attempts) and attempts[-1]["exit_status"] == 0


def _steps_left(paths: RunPaths) -> int | None:
    """By the last judgement; None where there is none."""
    try:
        verdict = json.loads(paths.verdict.read_text(encoding="utf-8"))
        return max(0, (verdict.get("max_steps") or 0) - (verdict.get("last_step") or 0))
    except (FileNotFoundError, ValueError):
        return None


def train(driver: Path, arguments: Sequence[str], paths: RunPaths, what: str) -> None:
    """Run ``driver`` with another results folder to the last step, unless that is done already.

    A driver that takes several starts (NUM_RUNS) is called again as long as it gets on.

    Args:
        driver: of the recipe.
        arguments: overrides for it.
        paths: where the results go.
        what: the run, in words, for whoever waits.

    Raises:
        InputError: the driver refused its input.
        EvenkeelError: the run did not finish; call it again to go on.
    """
    if is_finished(paths):
        print(f"[INFO] {what}: done before", file=sys.stderr)
        return
    print(f"[INFO] {what}: {paths.root}", file=sys.stderr)
    environment = {**os.environ, "EVENKEEL_EXP_DIR": str(paths.root)}
    argv = ["bash", str(driver), *arguments]
    while True:
        before = _steps_left(paths)
        try:
            done = subprocess.run(argv, env=environment, check=False)
        except OSError as error:
            raise MachineError(f"cannot start the driver: {error.strerror}", path=driver) from error
        if is_finished(paths):
            return
        left = _steps_left(paths)
        if not _ended_well(paths) or left is None or left >= (before or sys.maxsize):
            break
        print(f"[INFO] {what}: {left} steps are left", file=sys.stderr)
    failures = {EXIT_INPUT: InputError, EXIT_MACHINE: MachineError}
    raise failures.get(done.returncode, EvenkeelError)(
        f"{what} ended with status {done.returncode} before it was finished",
        path=paths.run_log,
        fix="mend what its log says and call again; runs that are finished are kept",
    )
