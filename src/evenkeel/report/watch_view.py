"""A launch as it runs: a table that is redrawn on a terminal, a line per change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, TextIO

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from evenkeel.convergence.verdict import Verdict
from evenkeel.launch.watch import Row

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
    """A table in place. What is done about jobs stays above it as lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def show(self, rows: Sequence[Row], trouble: str | None) -> None:
        """Redraw."""
        parts: list[Any] = [table(rows, self._console.height - 6)]
        if trouble:
            parts.append(f"[yellow]{escape(trouble)}[/]")
        self._live.update(Group(*parts), refresh=True)

    def note(self, line: str) -> None:
        """With the time of day, above the table."""
        self._console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
    if row.reason:
        words.append(row.reason)
    return ", ".join(words)


def table(rows: Sequence[Row], height: int) -> Table:
    """The recipes that matter most first, at most ``height`` of them, and the sums of all."""
    order = sorted(rows, key=lambda row: (row.is_done, row.state == "PENDING"))
    shown = order[: max(3, height)]
    done = sum(row.is_done for row in rows)
    hours = sum(row.gpu_hours for row in rows)
    title = f"{done} of {len(rows)} done, {hours:.2f} GPU-hours"
    if len(shown) < len(rows):
        title += f"; {len(rows) - len(shown)} more not shown"
    found = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    found.add_column("recipe", overflow="fold")
    for column in ("job", "run"):
        found.add_column(column, justify="right", no_wrap=True)
    found.add_column("state", no_wrap=True)
    for column in ("step", "s/step", "left", "loss", "GPU-h"):
        found.add_column(column, justify="right", no_wrap=True)
    found.add_column("reason", overflow="ellipsis", no_wrap=True)
    for row in shown:
        found.add_row(
            escape(row.recipe),
            str(row.job_id or ""),
            f"{row.run}/{row.runs}",
            row.state,
            f"{row.step}/{row.max_steps}",
            "" if row.step_time_s is None else f"{row.step_time_s:.3g}",
            "" if row.left_s is None else duration(row.left_s),
            "" if row.loss is None else f"{row.loss:.4g}",
            f"{row.gpu_hours:.2f}",
            escape(row.reason.split("\n")[0]),
            style="dim" if row.is_done else None,
        )
    return found


def duration(seconds: float) -> str:
    """``2:05:00`` or ``5:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """One line per recipe, what to know about the nodes, and the sum."""
    width = max((len(recipe["recipe"]) for recipe in result["recipes"]), default=0)
    lines = []
    for recipe in result["recipes"]:
        message = str(recipe["message"]).split("\n")[0]
        lines.append(f"{recipe['verdict']:<12} {recipe['recipe']:<{width}}  {message}".rstrip())
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
