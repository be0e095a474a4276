"""How far a run is, how fast it goes and how its loss does, followed in its own event files."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evenkeel.launch.outcome import Progress, StopReason
from evenkeel.metrics.event_follower import EventFollower
from evenkeel.run_paths import RunPaths

LOSS = "train/loss"
RECENT_STEPS = 50


@dataclass(frozen=True)
class Step:
    """One step as logged; ``wall_time`` in seconds since the epoch."""

    step: int
    loss: float
    wall_time: float


@dataclass(frozen=True)
class DoomPolicy:
    """When a run counts as lost.

    Attributes:
        steps_above: consecutive steps above the upper edge of the band; 0: never.
        hang_s: seconds without a step, counted from the start of the job or the last step; None:
            never.
    """

    steps_above: int = 20
    hang_s: float | None = 1800.0


@dataclass(frozen=True)
class Stretch:
    """What was logged between one start of a job and the next start of any."""

    first: Step
    last: Step

    @property
    def step_time_s(self) -> float | None:
        """Seconds per step on average; None where there is but one."""
        steps = self.last.step - self.first.step
        return (self.last.wall_time - self.first.wall_time) / steps if steps > 0 else None


class RunProgress:
    """Follows one run over all starts of its jobs. Memory does not grow with its length.

    Args:
        paths: the run's files.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._follower = EventFollower(paths.log_dir, tags={LOSS})
        self.recent: deque[Step] = deque(maxlen=RECENT_STEPS)
        self.last_step = 0
        self._began = 0.0
        self._stretches: dict[float, Stretch] = {}

    def poll(self, starts: Sequence[float]) -> None:
        """Read what is new.

        Args:
            starts: when the jobs of the run were started, and started again, in seconds since the
                epoch, ascending.
        """
        self._began = starts[-1] if starts else 0.0
        for scalar in self._follower.poll():
            step = Step(scalar.step, scalar.value, scalar.wall_time)
            # a resumed run begins again at its checkpoint: what it repeats replaces what was
            while self.recent and self.recent[-1].step >= step.step:
                self.recent.pop()
            self.recent.append(step)
            self.last_step = max(self.last_step, step.step)
            number = bisect_right(starts, step.wall_time)
            start = starts[number - 1] if number else 0.0
            known = self._stretches.get(start)
            self._stretches[start] = Stretch(known.first if known else step, step)

    @property
    def last(self) -> Step | None:
        """The newest step; None before the first."""
        return self.recent[-1] if self.recent else None

    @property
    def last_of_job(self) -> Step | None:
        """The newest step of the job that runs now."""
        stretch = self._stretches.get(self._began)
        return stretch.last if stretch else None

    @property
    def step_time_s(self) -> float | None:
        """Seconds per step of the job that runs now, over its recent steps."""
        steps = [step for step in self.recent if step.wall_time >= self._began]
        if len(steps) < 2 or steps[-1].step <= steps[0].step:
            return None
        return (steps[-1].wall_time - steps[0].wall_time) / (steps[-1].step - steps[0].step)

    def seen_alive_s(self, start: float) -> float:
        """Seconds from a start to the last step logged before the next one; 0: no step."""
        stretch = self._stretches.get(start)
        return stretch.last.wall_time - start if stretch else 0.0

    def of_job(self, began: float, max_steps: int, steps_wanted: int) -> Progress:
        """How far the run was when the next job took over, and what this one did for it.

        Args:
            began: the last start of the job; 0: it has not begun.
            max_steps: the step to reach.
            steps_wanted: steps the job was to do, at most.
        """
        stretch = self._stretches.get(began)
        until = [one.last.step for start, one in self._stretches.items() if start <= began]
        return Progress(
            last_step=max(until, default=0) if began else self.last_step,
            max_steps=max_steps,
            steps_wanted=steps_wanted,
            steps_done=stretch.last.step - stretch.first.step + 1 if stretch else 0,
            step_time_s=stretch.step_time_s if stretch else None,
        )


def doom(
    steps: Sequence[Step], upper: Mapping[int, float], policy: DoomPolicy
) -> tuple[StopReason, str] | None:
    """Why a run should be ended now, and the sentence that says so; None while it may go on.

    Args:
        steps: the newest steps, oldest first.
        upper: upper edge of the loss's band by step; steps without one are not compared.
        policy: how patient to be.
    """
    for step in steps:
        if not math.isfinite(step.loss):
            return StopReason.NON_FINITE, f"{LOSS} is {step.loss} at step {step.step}"
    above = 0
    for step in reversed(steps):
        edge = upper.get(step.step)
        if edge is None or step.loss <= edge:
            break
        above += 1
    if policy.steps_above and above >= policy.steps_above:
        last = steps[-1]
        return StopReason.ABOVE_BAND, (
            f"{LOSS} was above its band for {above} steps in a row; "
            f"at step {last.step} it is {last.loss:.4g}, the band ends at {upper[last.step]:.4g}"
        )
    return None


def hang(
    now: float, job_began: float, last: Step | None, policy: DoomPolicy
) -> tuple[StopReason, str] | None:
    """The same for a trainer that logs no step any more.

    Args:
        now: seconds since the epoch.
        job_began: when its job started.
        last: the newest step of this job.
        policy: how patient to be.
    """
    if policy.hang_s is None:
        return None
    silent_s = now - max(job_began, last.wall_time if last else 0.0)
    if silent_s <= policy.hang_s:
        return None
    where = f"after step {last.step}" if last else "and none since the job began"
    return StopReason.HUNG, f"no step for {silent_s / 60:.1f} minutes {where}"
