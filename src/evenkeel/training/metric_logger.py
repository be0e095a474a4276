"""Where a run's numbers go: event files always, trackers where asked for, and a progress line."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from evenkeel.recipes.schema import Recipe
from evenkeel.training.event_writer import EventWriter
from evenkeel.training.trackers import Tracker, open_trackers

_LIVE_PERIOD_S = 0.1
_FIRST_LINES_PERIOD_S = 5.0
_LATER_LINES_PERIOD_S = 30.0
_FIRST_LINES_S = 120.0
_RATE_WINDOW = 64


class MetricLogger:
    """Logs scalars by step; on every rank but 0 it does nothing, so callers need not ask.

    Metrics are named as the field's suites name them: ``train/loss``, ``validation/accuracy``,
    ``timing/train/total_step_time``; ``docs/data-formats.md`` lists them.
    """

    def __init__(
        self, recipe: Recipe, name: str, rank: int = 0, *, stream: TextIO | None = None
    ) -> None:
        """Open the event file and the trackers that the recipe enables.

        Args:
            recipe: its ``logger`` section is read; trackers get all of it as configuration.
            name: of the recipe; what trackers call the run.
            rank: only 0 writes.
            stream: where progress goes; standard output by default.

        Raises:
            InputError: an enabled tracker is not installed, or refuses.
            MachineError: ``logger.log_dir`` cannot be written.
        """
        self._writer: EventWriter | None = None
        self._trackers: list[Tracker] = []
        self._progress: Progress | None = None
        if rank != 0:
            return
        log_dir = Path(recipe.logger.log_dir)
        self._trackers = open_trackers(recipe, name, log_dir)
        try:
            self._writer = EventWriter(log_dir)
        except BaseException:
            self.close(failed=True)
            raise
        self._progress = Progress(stream or sys.stdout)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values at a step, non-finite ones as they are.

        Raises:
            MachineError: the disk is full or gone.
        """
        if self._writer is None or not metrics:
            return
        self._writer.add_scalars(metrics, step)
        for tracker in self._trackers:
            tracker.log(metrics, step)

    def progress(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show how far the run is: a live line on a terminal, now and then a line elsewhere."""
        if self._progress is not None:
            self._progress.show(step, total, metrics)

    def close(self, *, failed: bool = False) -> None:
        """End the progress line and the trackers' runs, which learn whether it failed."""
        if self._progress is not None:
            self._progress.end()
        if self._writer is not None:
            self._writer.close()
        for tracker in self._trackers:
            tracker.close(failed=failed)
        self._trackers = []

    def __enter__(self) -> MetricLogger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)


class Progress:
    """``step 120/300  40%  train/loss 0.497  12.1 steps/s  0:15 left``."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._live = stream.isatty()
        self._began = clock()
        self._shown_at: float | None = None
        self._open_line = False
        # The first step compiles, allocates and loads; the window forgets it.
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOW)

    def show(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Print if it is time to, and always at the first and the last step."""
        now = self._clock()
        self._recent.append((now, step))
        due = self._shown_at is None or step >= total or now - self._shown_at >= self._period(now)
        if not due:
            return
        self._shown_at = now
        text = self._text(step, total, metrics)
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{text[:width]}")
            self._open_line = True
            if step >= total:
                self.end()
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the live line standing and begin a new one."""
        if self._open_line:
            self._stream.write("\n")
            self._stream.flush()
            self._open_line = False

    def _period(self, now: float) -> float:
        if self._live:
            return _LIVE_PERIOD_S
        early = now - self._began < _FIRST_LINES_S
        return _FIRST_LINES_PERIOD_S if early else _LATER_LINES_PERIOD_S

    def _text(self, step: int, total: int, metrics: Mapping[str, float]) -> str:
        parts = [f"step {step}/{total}", f"{100 * step // max(total, 1)}%"]
        parts += [f"{name} {value:.4g}" for name, value in metrics.items()]
        (first_time, first_step), (last_time, last_step) = self._recent[0], self._recent[-1]
        if last_step > first_step and last_time > first_time:
            rate = (last_step - first_step) / (last_time - first_time)
            parts.append(f"{rate:.3g} steps/s" if rate >= 1 else f"{1 / rate:.3g} s/step")
            parts.append(f"{_duration((total - step) / rate)} left")
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
