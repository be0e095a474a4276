"""Bugs in the learning rate; some show in the logged rate, some only in what is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mutants.registry import Patch, mutant


def _scale_unlogged(patch: Patch, factor: float) -> None:
    """The rate in the log stays right."""
    patch(
        "backends.fsdp2:Fsdp2Backend.step",
        lambda original: lambda self, learning_rate: original(self, learning_rate * factor),
    )


@mutant(
    "learning-rate-x1.1",
    breaks="weights move with 1.1 times the rate that is logged",
    seen="class: a rate scaled in one place too many",
    needs=("sft",),
)
def _a_tenth_more(patch: Patch) -> None:
    _scale_unlogged(patch, 1.1)


@mutant(
    "learning-rate-x2",
    breaks="weights move with twice the rate that is logged",
    seen="class: linear scaling by the number of ranks applied twice",
    needs=("sft",),
)
def _twice(patch: Patch) -> None:
    _scale_unlogged(patch, 2.0)


@mutant(
    "learning-rate-halved",
    breaks="weights move with half the rate that is logged",
    seen="class: a rate divided by the number of ranks",
    needs=("pretrain",),
)
def _half(patch: Patch) -> None:
    _scale_unlogged(patch, 0.5)


def _change_schedule(patch: Patch, change: Callable[..., float]) -> None:
    """Let ``change(original, step, peak, scheduler, horizon)`` give the rate."""

    def make(original: Any) -> Any:
        def learning_rate(step: int, peak: float, scheduler: Any, horizon: int) -> float:
            return change(original, step, peak, scheduler, horizon)

        return learning_rate

    patch("schedules:learning_rate", make)


@mutant(
    "warm-up-missing",
    breaks="the rate begins at its peak",
    seen="class: a warm-up given in another unit than the schedule reads",
    needs=("sft", "warmup"),
)
def _no_warm_up(patch: Patch) -> None:
    _change_schedule(
        patch,
        lambda original, step, peak, scheduler, horizon: original(
            step, peak, replace(scheduler, warmup_steps=0), horizon
        ),
    )


@mutant(
    "schedule-one-step-late",
    breaks="each step has the rate of the one before it, the first one none",
    seen="class: scheduler.step() before optimizer.step(), or counted from 0",
    needs=("sft", "warmup"),
)
def _one_step_late(patch: Patch) -> None:
    _change_schedule(
        patch,
        lambda original, step, peak, scheduler, horizon: original(
            step - 1, peak, scheduler, horizon
        ),
    )


@mutant(
    "schedule-twice-as-fast",
    breaks="the rate is gone after half of the steps",
    seen="Hugging Face accelerate: a prepared scheduler steps once per process",
    needs=("sft",),
)
def _twice_as_fast(patch: Patch) -> None:
    _change_schedule(
        patch,
        lambda original, step, peak, scheduler, horizon: original(
            step, peak, scheduler, max(horizon // 2, 1)
        ),
    )


@mutant(
    "schedule-never-decays",
    breaks="the rate stays at its peak after warm-up, and the log says otherwise",
    seen="class: a schedule bound to an optimizer that was made anew",
    needs=("pretrain",),
)
def _never_decays(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def step(self: Any, learning_rate: float) -> None:
            self.peak = max(getattr(self, "peak", 0.0), learning_rate)
            original(self, self.peak)

        return step

    patch("backends.fsdp2:Fsdp2Backend.step", make)
