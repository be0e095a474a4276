"""The training loop, the same for every algorithm: steps, validation, checkpoints, and its end.

Every rank runs it in step with the others; rank 0 logs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from evenkeel.errors import EvenkeelError, MachineError
from evenkeel.recipes.schema import Recipe
from evenkeel.run_record import TrainerExit
from evenkeel.training import random_state, stopping
from evenkeel.training.algorithms.interface import StepResult, TrainingAlgorithm
from evenkeel.training.backends.interface import Backend
from evenkeel.training.checkpoint import Checkpoint, CheckpointStore
from evenkeel.training.distributed import World

MODEL_FOLDER = "model"
SHOWN = ("train/loss", "train/reward", "validation/loss", "validation/accuracy")
"""Metrics of the progress line."""


class NonFiniteError(EvenkeelError):
    """A loss or gradient norm that is not a finite number; its step is logged."""

    exit_code = int(TrainerExit.NON_FINITE)


class Meter(Protocol):
    """Speed and memory of a step, as metrics."""

    def __call__(self, result: StepResult, step_time_s: float) -> dict[str, float]:
        """Metrics of a step that took so long."""


class Log(Protocol):
    """What the loop needs of ``MetricLogger``."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Write the scalars of a step."""

    def progress(self, step: int, total: int, metrics: dict[str, float]) -> None:
        """Show a person how far it is."""


@dataclass(frozen=True)
class End:
    """How a start of the trainer ended."""

    step: int
    """The last step whose result is saved or, without checkpoints, done."""
    stopped_by: int = 0
    """0, or the flag of ``stopping``."""


@dataclass
class TrainingLoop:
    """One start of a trainer: from the latest checkpoint to where it has to end."""

    recipe: Recipe
    fingerprint: str
    algorithm: TrainingAlgorithm
    backend: Backend
    world: World
    log: Log
    meter: Meter
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        settings = self.recipe.checkpointing
        self._saves = settings.enabled
        self._store = CheckpointStore(
            Path(settings.checkpoint_dir), settings.keep_latest, self.world
        )
        self._saved_step = 0

    def resume(self) -> int:
        """Restore the latest checkpoint; the result is its step, or 0.

        Raises:
            MachineError: it is damaged, or belongs to another recipe.
        """
        random_state.seed(self.recipe.seed, self.backend.place.rank)
        latest = None
        if self._saves:
            self._store.remove_leftovers()
            latest = self._store.latest()
        if latest is None:
            self.algorithm.begin()
            return 0
        self._check_recipe(latest)
        latest.check_files()
        self.backend.load(latest.folder / MODEL_FOLDER)
        self.algorithm.load(latest.folder)
        same_layout = latest.manifest.get("world_size") == self.world.ranks.world_size
        if not (same_layout and random_state.load(latest.folder, self.world.ranks.rank)):
            random_state.seed(self.recipe.seed, self.backend.place.rank, latest.step)
        self._saved_step = latest.step
        self.say(f"continuing from the checkpoint of step {latest.step}")
        return latest.step

    def run(self, start: int, request: stopping.StopRequest) -> End:
        """Train from the step after ``start``.

        Raises:
            NonFiniteError: training diverged or met a bad number.
            MachineError: a checkpoint could not be saved.
        """
        settings = self.recipe.loop
        last = settings.max_num_steps
        if settings.steps_per_run is not None:
            last = min(last, start + settings.steps_per_run)
        if settings.val_at_start and start == 0:
            self.log.log(self.algorithm.validate(), 0)
        for step in range(start + 1, last + 1):
            if flag := self.world.any_rank(request.poll()):
                self._save(step - 1)
                return End(step - 1, stopped_by=flag)
            self._step(step)
            request.poll()  # who was asleep in this step and lost the run must not save it
            if self._saves and step % max(1, self.recipe.checkpointing.save_period) == 0:
                self._save(step)
        end = max(start, last)
        self._save(end)
        return End(end)

    def _step(self, step: int) -> None:
        began = time.perf_counter()
        result = self.algorithm.train_step(step)
        elapsed = time.perf_counter() - began
        metrics = dict(result.metrics)
        metrics["timing/train/total_step_time"] = elapsed
        metrics.update(self.meter(result, elapsed))
        bad = [name for name in result.watched if not math.isfinite(metrics[name])]
        if not bad and self._validates(step):
            metrics.update(self.algorithm.validate())
        self.log.log(metrics, step)
        shown = {name: value for name, value in metrics.items() if name in SHOWN}
        self.log.progress(step, self.recipe.loop.max_num_steps, shown)
        if bad:
            raise NonFiniteError(
                f"{bad[0]} is {metrics[bad[0]]} at step {step}",
                fix="look at the steps before it; the last checkpoint is of step "
                f"{self._saved_step}, so a second start repeats it",
            )

    def _validates(self, step: int) -> bool:
        period = self.recipe.loop.val_period
        return step == self.recipe.loop.max_num_steps or (period > 0 and step % period == 0)

    def _save(self, step: int) -> None:
        if not self._saves or step in (0, self._saved_step):
            return
        ranks, parallel = self.world.ranks, self.recipe.policy.parallel

        def write(folder: Path) -> None:
            self.backend.save(folder / MODEL_FOLDER)
            self.algorithm.save(folder)
            random_state.save(folder, ranks.rank)

        self._store.save(
            step,
            write,
            {
                "algorithm": self.recipe.algorithm.value,
                "backend": self.recipe.policy.backend.value,
                "fingerprint": self.fingerprint,
                "world_size": ranks.world_size,
                "tensor_parallel_size": parallel.tensor_parallel_size,
                "torch": torch.__version__,
            },
        )
        self._saved_step = step

    def _check_recipe(self, latest: Checkpoint) -> None:
        wrote, backend = latest.manifest.get("backend"), self.recipe.policy.backend.value
        if wrote != backend:
            raise MachineError(
                f"the checkpoint of step {latest.step} is the {wrote} backend's, and "
                f"policy.backend is {backend}",
                path=latest.folder,
                fix=f"set policy.backend={wrote} to continue, or remove the folder of checkpoints "
                "to begin anew",
            )
        if latest.manifest.get("fingerprint") != self.fingerprint:
            raise MachineError(
                f"the checkpoint of step {latest.step} was written by another recipe: something "
                "that shapes the curve (data, seed, model, batch, optimizer, schedule) has changed",
                path=latest.folder,
                fix="undo the change to continue, or remove the folder of checkpoints to begin "
                "anew",
            )
