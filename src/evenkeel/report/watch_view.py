"""A launch as it runs: a table that is redrawn on a terminal, a line per change elsewhere."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.text import Text

from evenkeel.convergence.verdict import Verdict
from evenkeel.launch.recipe_watch import Row
from evenkeel.report.watch_table import Shown, duration, table

PROGRESS_EVERY_S = 60.0


class View(Protocol):
    """Where a watcher shows what it sees; a context manager."""

    def show(self, rows: Sequence[Row], trouble: str | None) -> None:
        """The state after one look."""

    def note(self, line: str) -> None:
        """Something was done."""

    def __enter__(self) -> View: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def view_of(out: TextIO, *, quiet: bool = False) -> View:
    """The view that suits where the output goes; a quiet one shows nothing."""
    console = Console(file=out, highlight=False, quiet=quiet)
    return LiveView(console) if console.is_terminal and not quiet else LineView(console)


class LineView:
    """One line whenever a recipe changes its state, and now and then its progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, tuple[object, ...]] = {}
        self._progress_at: dict[str, float] = {}
        self._trouble: str | None = None

    def show(self, rows: Sequence[Row], trouble: str | None) -> None:
        """Lines for what is new."""
        if trouble != self._trouble:
            self.note(f"cluster: {trouble or 'it answers again'}")
            self._trouble = trouble
        for row in rows:
            state = (row.job_id, row.run, row.state, row.outcome.kind)
            changed = self._shown.get(row.recipe) != state
            due = time.monotonic() - self._progress_at.get(row.recipe, 0) > PROGRESS_EVERY_S
            if changed or (due and row.step and not row.is_done):
                self._shown[row.recipe] = state
                self._progress_at[row.recipe] = time.monotonic()
                self.note(row_line(row))

    def note(self, line: str) -> None:
        """With the time of day."""
        stamp = time.strftime("%H:%M:%S")
        self._console.print(f"{stamp} {line}", markup=False, soft_wrap=True)

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class LiveView:
    """A table in place. What is done about jobs stays above it as lines.

    The table goes away when all is done, since the verdicts follow it; otherwise it stays as it
    was seen last.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._shown: tuple[Sequence[Row], str | None] = ((), None)
        self._size = console.size
        self._is_drawing = False
        self._before: Any = None

    def show(self, rows: Sequence[Row], trouble: str | None) -> None:
        """Redraw."""
        self._shown = rows, trouble
        self._live.transient = bool(rows) and all(row.is_done for row in rows)
        self._draw()

    def note(self, line: str) -> None:
        """With the time of day, above the table."""
        self._console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)

    def _draw(self) -> None:
        self._is_drawing = True
        rows, trouble = self._shown
        size = self._console.size
        if size != self._size:
            # the terminal has wrapped what stood there: where the table began is not known any more
            self._console.control(Control.clear(), Control.home())
            self._size = size
        below = [Text(trouble, style="yellow")] if trouble else []
        # one line stays free for the cursor, one for what the terminal's user types
        height = size.height - len(below) - 2
        self._live.update(Group(*table(rows, size.width, height), *below), refresh=True)
        self._is_drawing = False

    def _resized(self, number: int, frame: FrameType | None) -> None:
        """At once, and not at the next look."""
        if not self._is_drawing and self._shown[0]:
            self._draw()

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGWINCH, self._resized)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGWINCH, self._before)
        self._live.__exit__(kind, error, trace)


def row_line(row: Row) -> str:
    """One recipe in one line of plain text."""
    job = f"job {row.job_id} ({row.run}/{row.runs})" if row.job_id else f"run {row.run}/{row.runs}"
    words = [f"{row.recipe}: {job} {row.state}"]
    if row.step:
        words.append(f"step {row.step}/{row.max_steps}")
    if row.step_time_s is not None:
        words.append(f"{row.step_time_s:.3g} s/step")
    if row.left_s is not None:
        words.append(f"{duration(row.left_s)} left")
    if row.loss is not None:
        words.append(f"loss {row.loss:.4g}")
    words.append(f"{row.gpu_hours:.2f} GPU-h")
    shown = Shown.of(row)
    end = [shown.verdict.value] if shown.verdict else []
    if shown.message or end:
        words.append(": ".join([*end, shown.message.split("\n")[0]]))
    return ", ".join(words)


def second_look_lines(second: Mapping[str, Any]) -> list[str]:
    """What the confirming runs cost and why a result in doubt got none; nothing without any."""
    lines = [f"{recipe}: {note}" for recipe, note in second["notes"].items()]
    if runs := len(second["runs"]):
        plural = "" if runs == 1 else "s"
        lines.append(
            f"{runs} confirming run{plural}: {second['gpu_hours']:.2f} of"
            f" {second['budget_gpu_hours']:.2f} GPU-hours"
        )
    return lines


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """A line per recipe (verdict, GPU-hours, reason), what to know about the nodes, the sum."""
    width = max((len(recipe["recipe"]) for recipe in result["recipes"]), default=0)
    hours = max((len(f"{recipe['gpu_hours']:.2f}") for recipe in result["recipes"]), default=0)
    lines = []
    for recipe in result["recipes"]:
        message = str(recipe["message"]).split("\n")[0]
        held = f"{recipe['gpu_hours']:{hours}.2f} GPU-h"
        line = f"{recipe['verdict']:<12} {recipe['recipe']:<{width}}  {held}  {message}"
        lines.append(line.rstrip())
        lines += [f"    {line}" for line in str(recipe["traceback"]).splitlines()[-8:]]
    for node, recipes in result["suspect_nodes"].items():
        lines.append(
            f"node {node} failed {len(recipes)} recipes ({', '.join(recipes)}); "
            f"leave it out with --exclude-node {node}"
        )
    good = sum(Verdict(recipe["verdict"]).exit_code == 0 for recipe in result["recipes"])
    lines.append(
        f"{good} of {len(result['recipes'])} recipes are good; {result['gpu_hours']:.2f} GPU-hours"
    )
    return lines
