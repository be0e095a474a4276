"""``evenkeel driver``: what ``common.env`` asks on behalf of a driver script."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel import run_record
from evenkeel.cli.command_parser import add_action
from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import (
    EXIT_FINDING,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_MACHINE,
    InputError,
)
from evenkeel.run_paths import Repository, RunPaths

if TYPE_CHECKING:
    from evenkeel.recipes.schema import Recipe

NOT_REACHED = 9

_RUN_DIR = "tests/test_suites/llm/sft-llama-0.9m-1n1g-fsdp2tp1"
_CONFIG = "examples/configs/recipes/llm/sft-llama-0.9m-1n1g-fsdp2tp1.yaml"

EPILOG = f"""\
The three calls of common.env, for whoever writes drivers of another kind.

examples:
  evenkeel driver reached --run-dir {_RUN_DIR} \\
      --config {_CONFIG} --max-steps 200
  evenkeel driver judge --run-dir {_RUN_DIR} \\
      --max-steps 200 'max(data["train/loss"]) < 7'

exit status of 'reached': 9 while there are steps left, else that of the recorded verdict
exit status of 'train': that of the trainer; 2 or 3 when it could not be started; 130 after Ctrl-C
exit status of 'judge': that of the verdict
"""

_REACHED = f"""\
Say whether a run has nothing left to do: it has come to MAX_STEPS and was judged, or its loss is
not finite. Results of another configuration than this one are refused.

examples:
  evenkeel driver reached --run-dir {_RUN_DIR} \\
      --config {_CONFIG} --max-steps 200

exit status: 9 while there are steps left; else that of the recorded verdict, 0 for PASS and
             IMPROVED, 1 for any other; 2 bad input, or results of another configuration
"""

_TRAIN = f"""\
Start the trainer, on all nodes of the allocation where there is one, and train from the last whole
checkpoint on: up to STEPS_PER_RUN steps, and no further than MAX_STEPS.

examples:
  evenkeel driver train --run-dir {_RUN_DIR} \\
      --config {_CONFIG} \\
      --script examples/run_sft.py --num-nodes 1 --gpus-per-node 1 --max-steps 200 \\
      --steps-per-run 200 policy.optimizer.lr=1e-3

exit status: that of the trainer; 2 or 3 when it could not be started; 130 after Ctrl-C
"""

_JUDGE = f"""\
Write the metrics.json of a run from its event files, evaluate the checks, compare the run with its
baseline if it has one, show all of it, and keep the verdict in verdict.json. The checkpoints of a
run that passed are removed, unless KEEP_CKPTS=1.

examples:
  evenkeel driver judge --run-dir {_RUN_DIR} \\
      --max-steps 200 'max(data["train/loss"]) < 7'

exit status: that of the verdict, 0 for PASS and IMPROVED, 1 for any other; 2 bad input
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser per question."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    reached = add_action(actions, "reached", "whether MAX_STEPS is reached and judged", _REACHED)
    train = add_action(actions, "train", "train from the last checkpoint", _TRAIN)
    judge = add_action(actions, "judge", "collect the metrics, check them, say the verdict", _JUDGE)
    for action in (reached, train, judge):
        # no positional argument but the last list, or argparse would end that list too early
        action.add_argument("--run-dir", type=Path, required=True, help="the driver's results")
        action.add_argument("--max-steps", type=int, required=True, metavar="N", help="of the run")
    for action in (reached, train):
        action.add_argument("--config", type=Path, required=True, help="the recipe's YAML")
        action.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    train.add_argument("--script", type=Path, required=True, help="the training entry")
    train.add_argument("--num-nodes", type=int, required=True, metavar="N")
    train.add_argument("--gpus-per-node", type=int, required=True, metavar="N")
    train.add_argument(
        "--steps-per-run", type=int, required=True, metavar="N", help="steps of this start, at most"
    )
    judge.add_argument("checks", nargs="*", metavar="CHECK", help="as 'evenkeel check' takes them")


def run(args: argparse.Namespace) -> int:
    """Dispatch."""
    actions = {"reached": _reached, "train": _train, "judge": _judge}
    return actions[args.action](args)


def _reached(args: argparse.Namespace) -> int:
    from evenkeel.convergence import judgement

    paths = RunPaths(args.run_dir)
    kept = judgement.read(paths)
    if kept is None or not _is_final(Verdict(kept["verdict"]), kept["last_step"], args.max_steps):
        return NOT_REACHED
    _refuse_other_recipe(args, paths)
    hint = f"remove {paths.root} to train it again"
    if paths.ckpt_dir.is_dir():  # those of a run that passed are gone
        hint += f", or {paths.verdict.name} in it to continue from the latest checkpoint"
    print(
        f"[INFO] {paths.name} has ended at step {kept['last_step']} of {args.max_steps}: "
        f"{kept['verdict']} ({kept['message']})\n[INFO] {hint}"
    )
    return Verdict(kept["verdict"]).exit_code


def _is_final(verdict: Verdict, last_step: int, max_steps: int) -> bool:
    """Whether more training can change nothing: all steps are judged, or the loss is not finite."""
    unfinished = (Verdict.CRASHED, Verdict.INCOMPLETE, Verdict.WALLTIME, Verdict.INFRA)
    return verdict is Verdict.NON_FINITE or (verdict not in unfinished and last_step >= max_steps)


def _refuse_other_recipe(args: argparse.Namespace, paths: RunPaths) -> None:
    """Neither continue nor report the results of one configuration as those of another."""
    from evenkeel.recipes import config, fingerprint

    resolved = config.load(args.config, args.overrides)
    record = run_record.read(paths.run_json)
    if record.get("fingerprint") in (None, resolved.fingerprint):
        return
    before = fingerprint.convergence_fields(record.get("config", {}))
    after = fingerprint.convergence_fields(resolved.values)
    changed = [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    raise InputError(
        f"holds results of another configuration; changed since: {'; '.join(changed)}",
        path=paths.root,
        fix="move or remove that directory to train the new one, or undo the change to continue",
    )


def _refuse_other_size(args: argparse.Namespace, recipe: Recipe) -> None:
    """Raise for overrides of what the CONFIG block decides: how many processes are started."""
    from evenkeel.recipes import config

    own = config.load(args.config).recipe.cluster
    for key in ("num_nodes", "gpus_per_node"):
        asked, started = getattr(recipe.cluster, key), getattr(args, key)
        if asked not in (getattr(own, key), started):
            raise InputError(
                f"cluster.{key} is {asked}, and {key.upper()} in the CONFIG block {started}",
                path=args.config,
                fix="leave the override out, or change the recipe and the CONFIG block",
            )


def _train(args: argparse.Namespace) -> int:
    from evenkeel.launch import trainer_process
    from evenkeel.recipes import config
    from evenkeel.run_lock import TOKEN_VARIABLE, RunLock, require_current

    paths = RunPaths(args.run_dir.resolve())
    resolved = config.load(args.config, args.overrides)
    _refuse_other_recipe(args, paths)
    _refuse_other_size(args, resolved.recipe)
    loop = resolved.recipe.algorithm.value
    overrides = [
        f"{loop}.max_num_steps={args.max_steps}",
        f"{loop}.steps_per_run={args.steps_per_run}",
        f"cluster.num_nodes={args.num_nodes}",
        f"cluster.gpus_per_node={args.gpus_per_node}",
        # quoted: a path may hold what YAML reads as something else
        f"logger.log_dir={json.dumps(str(paths.log_dir))}",
        f"checkpointing.checkpoint_dir={json.dumps(str(paths.ckpt_dir))}",
        *args.overrides,
    ]
    environment = dict(os.environ)
    allocation = trainer_process.Allocation.from_environment(
        args.num_nodes, args.gpus_per_node, environment
    )
    argv = trainer_process.command(
        args.script, ["--config", str(args.config), *overrides], allocation, environment
    )
    with RunLock(paths) as lock:
        if lock.previous is not None:
            print(f"[INFO] going on after a writer that left no end: {lock.previous}")
        environment[TOKEN_VARIABLE] = str(lock.token)
        paths.verdict.unlink(missing_ok=True)
        log_offset = paths.run_log.stat().st_size if paths.run_log.exists() else 0
        attempt = run_record.open_attempt(paths.run_json, {"log_offset": log_offset})
        end = trainer_process.run(argv, paths, environment)
        require_current(paths, environment)
        status = run_record.close_attempt(paths.run_json, attempt, end.status)
    if end.interrupted and status != run_record.TrainerExit.FINISHED:
        return EXIT_INTERRUPTED
    if status in (EXIT_INPUT, EXIT_MACHINE):
        return EXIT_FINDING  # the trainer's own complaint is judged like any other crash
    return 128 - status if status < 0 else status


def _judge(args: argparse.Namespace) -> int:
    from evenkeel.convergence import judgement
    from evenkeel.report import terminal

    paths = RunPaths(args.run_dir.resolve())
    if not paths.root.is_dir():
        raise InputError(
            f"no such folder, so there is no run of {paths.name} to judge",
            path=paths.root,
            fix="train it first, which its driver does, or name another folder with --run-dir",
        )
    damage = _collect(paths)
    root = os.environ.get("PROJECT_ROOT")
    repository = Repository(Path(root)) if root else None
    result = judgement.judge_run(paths, args.checks, args.max_steps, damage, repository)
    judgement.write(result, paths)
    terminal.print_judgement(result, paths.name)
    if result.verdict.exit_code == 0 and os.environ.get("KEEP_CKPTS", "0") in ("", "0"):
        shutil.rmtree(paths.ckpt_dir, ignore_errors=True)
    return result.verdict.exit_code


def _collect(paths: RunPaths) -> str:
    """``metrics.json`` from the event files; the result says what was lost in the middle of one.

    A trainer that died before its first event has none; the end of a killed run's file may be
    cut off. Neither is damage.
    """
    from evenkeel.metrics import collection, series

    try:
        collected = collection.collect(paths.log_dir)
    except InputError as error:
        print(f"[WARNING] no metrics: {error.message} ({error.place})", file=sys.stderr)
        return ""
    for warning in collected.warnings:
        print(f"[WARNING] {warning}", file=sys.stderr)
    series.save(paths.metrics, collected.metrics)
    return "; ".join(collected.warnings) if collected.damaged else ""
