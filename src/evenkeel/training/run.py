"""The entry of every trainer: command line, set-up, loop, and the exit status.

``examples/run_sft.py`` and its siblings call ``main`` with their algorithm.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evenkeel import run_lock, run_record
from evenkeel.errors import EXIT_INTERRUPTED, EvenkeelError, InputError, MachineError
from evenkeel.recipes import config
from evenkeel.recipes.schema import Algorithm, Backend, Policy
from evenkeel.recipes.support import check_supported
from evenkeel.run_paths import RunPaths
from evenkeel.run_record import TrainerExit
from evenkeel.training import failures, models, provenance, stopping, vision_model
from evenkeel.training.algorithms import registry
from evenkeel.training.algorithms.interface import Ingredients
from evenkeel.training.backends import interface
from evenkeel.training.backends.fsdp2 import Fsdp2Backend
from evenkeel.training.data.tokenizers import load_tokenizer
from evenkeel.training.distributed import SharedMachineError, World, joined, ranks_from
from evenkeel.training.loop import End, TrainingLoop
from evenkeel.training.metric_logger import MetricLogger
from evenkeel.training.step_meter import StepMeter

_PR_SET_PDEATHSIG = 1

EPILOG = """\
examples:
  python {script} --config examples/configs/recipes/llm/{example}.yaml
  python {script} --config FILE {algorithm}.max_num_steps=20 policy.optimizer.lr=1e-4
  torchrun --standalone --nproc-per-node 2 {script} --config FILE
  srun --ntasks 8 python {script} --config FILE

It continues from the latest checkpoint in checkpointing.checkpoint_dir.

exit status: 0 the steps asked for are done; 75 stopped by SIGTERM, SIGUSR1 or a stop request after
             saving a checkpoint; 76 the loss or gradient norm was not finite; 2 bad input; 3 the
             machine failed; 130 interrupted. (torchrun itself turns every other one than 0 into 1.)
"""


def main(algorithm: Algorithm, argv: Sequence[str] | None = None) -> int:
    """Train; the result is the exit status. Messages for a person come from rank 0, once."""
    arguments = _arguments(algorithm, argv)
    _end_with_torchrun()
    try:
        resolved = config.load(arguments.config, arguments.overrides)
        if resolved.recipe.algorithm is not algorithm:
            raise InputError(
                f"the recipe's algorithm is {resolved.recipe.algorithm.value}, and this trainer "
                f"does {algorithm.value}",
                path=arguments.config,
                fix=f"use examples/run_{resolved.recipe.algorithm.value}.py",
            )
        check_supported(resolved)
        with joined(resolved.recipe) as world:
            return _explaining(lambda: _train(resolved, world))
    except EvenkeelError as error:
        local_to_this_rank = isinstance(error, MachineError) and not isinstance(
            error, SharedMachineError
        )
        if _rank() == 0 or local_to_this_rank:
            print(f"\nevenkeel: error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        if _rank() == 0:
            print("\nevenkeel: interrupted", file=sys.stderr, flush=True)
        return EXIT_INTERRUPTED


def _arguments(algorithm: Algorithm, argv: Sequence[str] | None) -> argparse.Namespace:
    script = f"examples/run_{algorithm.value}.py"
    parser = argparse.ArgumentParser(
        prog=script,
        description=f"Train one recipe of the {algorithm.value} algorithm.",
        epilog=EPILOG.format(
            script=script, algorithm=algorithm.value, example="sft-llama-0.9m-1n1g-fsdp2tp1"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="the recipe's YAML"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="change a field; ++KEY=VALUE adds one, ~KEY takes one away",
    )
    return parser.parse_intermixed_args(argv)


def _end_with_torchrun() -> None:
    """A torchrun that is killed outright must not leave ranks that write to the run's files.

    Only torchrun's ranks: a trainer of its own may outlive the shell that started it (nohup).
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _explaining(train: Callable[[], int]) -> int:
    try:
        return train()
    except (RuntimeError, MemoryError) as error:
        explanation = failures.explained(error)
        if explanation is None:
            raise
        raise explanation from error


def _rank() -> int:
    try:
        return ranks_from(os.environ).rank
    except InputError:
        return 0


def _train(resolved: config.ResolvedRecipe, world: World) -> int:
    recipe = resolved.recipe
    paths = RunPaths(Path(recipe.logger.log_dir).absolute().parent)

    def say(text: str) -> None:
        if world.is_main:
            print(text, flush=True)

    with stopping.listening(paths) as request:
        # noted while signals are ours: torchrun ends this rank as soon as another one has failed
        try:
            loop, log = set_up(resolved, world, say)
            with log:
                start = loop.resume()
                if world.is_main:
                    begins = loop.backend.initial_weights
                    provenance.record(paths.run_json, resolved, world.device, begins)
                setup_time_s = seconds_since_process_start()
                say(f"ready {setup_time_s:.1f} s after start, imports included")
                log.log({"timing/setup/total_time": setup_time_s}, start + 1)
                end = loop.run(start, request)
            status = _report(end, recipe.loop.max_num_steps, say)
        except run_lock.RunLostError:
            raise  # run.json is another start's now
        except EvenkeelError as error:
            _note_exit(paths, world, error.exit_code)
            raise
        _note_exit(paths, world, status)
    return status


def _note_exit(paths: RunPaths, world: World, status: int) -> None:
    """For the runner, to which torchrun hands on no status but 0 and 1."""
    if world.is_main:
        run_record.note_trainer_exit(paths.run_json, status)


def set_up(
    resolved: config.ResolvedRecipe, world: World, say: Callable[[str], None]
) -> tuple[TrainingLoop, MetricLogger]:
    """Everything that a recipe needs to train; the log is the caller's to close.

    Raises:
        InputError: the recipe asks for what cannot be had.
        MachineError: model, tokenizer or data cannot be read.
    """
    recipe = resolved.recipe
    tokenizer = load_tokenizer(recipe)
    model_config = models.load_config(recipe.policy)
    models.check_vocabulary(model_config, tokenizer)
    vision_model.check_recipe(recipe, model_config)
    backend = _backend(resolved, model_config, world)
    algorithm = registry.build(
        Ingredients(
            recipe,
            backend,
            tokenizer,
            second_model=partial(_second_model, resolved, world=world),
            is_main=world.is_main,
            say=say,
        )
    )
    log = MetricLogger(recipe, resolved.name, world.ranks.rank)
    loop = TrainingLoop(
        recipe=recipe,
        fingerprint=resolved.fingerprint,
        algorithm=algorithm,
        backend=backend,
        world=world,
        log=log,
        meter=StepMeter(recipe, model_config, world),
        say=say,
    )
    return loop, log


def _backend(resolved: config.ResolvedRecipe, model_config: Any, world: World) -> interface.Backend:
    if resolved.recipe.policy.backend is Backend.FSDP2:
        if resolved.recipe.policy.parallel.pipeline_parallel_size == 1:
            return Fsdp2Backend(resolved.recipe, model_config, world)
        # imported here: it takes a second, which other layouts need not wait for
        from evenkeel.training.backends.pipeline import PipelineBackend

        return PipelineBackend(resolved.recipe, model_config, world)
    # imported here: it takes seconds, and is an extra of its own
    try:
        from evenkeel.training.backends.megatron.backend import MegatronBackend
    except ModuleNotFoundError as error:
        raise InputError(
            f"policy.backend is megatron, and {error.name} is not installed",
            path=resolved.path,
            fix='install "evenkeel[megatron]", or set policy.backend=fsdp2',
        ) from error
    return MegatronBackend(resolved.recipe, model_config, world)


def _second_model(
    resolved: config.ResolvedRecipe, policy: Policy, world: World
) -> interface.Backend:
    recipe = replace(resolved.recipe, policy=policy)
    return _backend(replace(resolved, recipe=recipe), models.load_config(policy), world)


def _report(end: End, max_num_steps: int, say: Callable[[str], None]) -> int:
    done = f"step {end.step} of {max_num_steps}"
    if not end.stopped_by:
        say(f"done: {done}")
        return int(TrainerExit.FINISHED)
    say(f"stopped by {stopping.describe(end.stopped_by)} after {done}; call again to continue")
    interrupted = end.stopped_by == signal.SIGINT
    return EXIT_INTERRUPTED if interrupted else int(TrainerExit.STOPPED)


def seconds_since_process_start() -> float:
    """How long this process has run, its imports included."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    started = int(ticks) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
