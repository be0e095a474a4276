"""Learning rate as a pure function of the step, so that a resumed run needs no state for it."""

from __future__ import annotations

import math

from evenkeel.recipes.schema import Recipe, Schedule, Scheduler


def horizon(recipe: Recipe) -> int:
    """The step at which the decay ends: ``decay_steps``, or the length of the run.

    A run that is cut short by a smaller ``max_num_steps`` keeps its curve only where
    ``decay_steps`` is given; one that is stopped by a signal keeps it always.
    """
    steps = recipe.policy.scheduler.decay_steps
    return recipe.loop.max_num_steps if steps is None else steps


def learning_rate(step: int, peak: float, scheduler: Scheduler, horizon: int) -> float:
    """The learning rate of the optimizer step ``step`` (counted from 1).

    Warm-up is linear and reaches ``peak`` at step ``warmup_steps``. After that, with
    p = (step - warmup) / (horizon - warmup) clamped to [0, 1] and floor = ``min_lr_ratio``:

    - constant: 1
    - linear: 1 - (1 - floor) p
    - cosine: floor + (1 - floor) (1 + cos(pi p)) / 2 (Loshchilov & Hutter 2017, arXiv:1608.03983)
    - wsd: 1, then linear to the floor over the last ``wsd_decay_fraction`` of the steps
      (Hu et al. 2024, arXiv:2404.06395)

    times ``peak``; beyond the horizon it stays where it ended.
    """
    warmup = scheduler.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    progress = min((step - warmup) / max(horizon - warmup, 1), 1.0)
    return peak * _factor(progress, step, scheduler, horizon)


def _factor(progress: float, step: int, scheduler: Scheduler, horizon: int) -> float:
    floor = scheduler.min_lr_ratio
    match scheduler.name:
        case Schedule.CONSTANT:
            return 1.0
        case Schedule.LINEAR:
            return 1.0 - (1.0 - floor) * progress
        case Schedule.COSINE:
            return floor + (1.0 - floor) * (1.0 + math.cos(math.pi * progress)) / 2.0
        case Schedule.WSD:
            decay = horizon * scheduler.wsd_decay_fraction
            left = (horizon - step) / decay if decay else 1.0
            return floor + (1.0 - floor) * min(max(left, 0.0), 1.0)
