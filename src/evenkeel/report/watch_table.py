"""The table of a launch as it runs, laid out for the width of the terminal.

Names of recipes are long and say everything, so they are never cut while there is a way to show
them: where a name does not fit beside the numbers, the numbers go below it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from evenkeel.convergence.verdict import Verdict
from evenkeel.launch.outcome import Outcome
from evenkeel.launch.recipe_watch import Row
from evenkeel.report.watch_result import verdict_of

GAP = "  "
LEAST_REASON = 24
"""Columns below which a reason gets a line of its own."""
# title → the least width, so that columns do not jump while a launch goes on
NUMBERS = {
    "job": 3,
    "run": 3,
    "state": 10,
    "step": 5,
    "s/step": 6,
    "left": 5,
    "loss": 6,
    "GPU-h": 5,
}
LEFT_ALIGNED = ("state",)


@dataclass(frozen=True)
class Shown:
    """A row with its verdict, as far as there is one, and what there is to say about it."""

    row: Row
    verdict: Verdict | None
    message: str

    @classmethod
    def of(cls, row: Row) -> Shown:
        """With the verdict that its driver left, or that follows from how it ended."""
        if not row.is_done or row.is_finished:
            return cls(row, None, row.reason)
        return cls(row, *verdict_of(row.outcome, row.paths))

    @property
    def state(self) -> str:
        """The verdict of what is done, else the word of the row."""
        return self.verdict.value if self.verdict else self.row.state

    @property
    def is_good(self) -> bool:
        """Done, and well."""
        if self.verdict is None:
            return self.row.is_finished
        return self.verdict.exit_code == 0

    @property
    def rank(self) -> int:
        """Its place in the table: what runs, what failed, what waits, what is done."""
        if self.row.is_done:
            return 3 if self.is_good else 1
        return 2 if self.row.outcome.kind is Outcome.WAITING else 0

    @property
    def style(self) -> str:
        """As a style of rich."""
        if self.row.is_done:
            return "dim" if self.is_good else "red"
        return "yellow" if self.row.outcome.kind in (Outcome.REQUEUED, Outcome.UNKNOWN) else ""

    def numbers(self) -> list[str]:
        """A cell for each of ``NUMBERS``."""
        row = self.row
        return [
            str(row.job_id or ""),
            f"{row.run}/{row.runs}",
            self.state,
            f"{row.step}/{row.max_steps}",
            "" if row.step_time_s is None else f"{row.step_time_s:.3g}",
            "" if row.left_s is None else duration(row.left_s),
            "" if row.loss is None else f"{row.loss:.4g}",
            f"{row.gpu_hours:.2f}",
        ]


def table(rows: Sequence[Row], width: int, height: int) -> list[Text]:
    """Lines of at most ``width`` cells, at most ``height`` of them.

    The recipes that matter most come first; the first line has the sums over all, and says how
    many found no room.
    """
    shown = sorted((Shown.of(row) for row in rows), key=lambda one: one.rank)
    cells = [one.numbers() for one in shown]
    widths = [
        max(least, *(len(line[column]) for line in cells), 0)
        for column, least in enumerate(NUMBERS.values())
    ]
    name_width = max((len(one.row.recipe) for one in shown), default=6)
    blocks = [
        _block(one, _aligned(line, widths), name_width, width)
        for one, line in zip(shown, cells, strict=True)
    ]
    head = [_head(_aligned(list(NUMBERS), widths), name_width, width)]
    lines, left_out = head, 0
    for block in blocks:
        # once one is left out, all that matter less are
        if left_out or len(lines) + len(block) + 1 > max(height, 6):
            left_out += 1
        else:
            lines += block
    lines.insert(0, _title(shown, left_out))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _title(shown: Sequence[Shown], left_out: int) -> Text:
    done = sum(one.row.is_done for one in shown)
    bad = sum(one.row.is_done and not one.is_good for one in shown)
    words = f"{done} of {len(shown)} done"
    if bad:
        words += f", {bad} not good"
    words += f"; {sum(one.row.gpu_hours for one in shown):.2f} GPU-hours"
    if left_out:
        words += f"; {left_out} more not shown"
    return Text(f"{time.strftime('%H:%M:%S')}  {words}")


def _head(numbers: str, name_width: int, width: int) -> Text:
    line = _beside("recipe", numbers, name_width, width) or GAP + numbers
    return Text(_with_reason(line, "reason", width)[0].rstrip(), style="bold")


def _block(one: Shown, numbers: str, name_width: int, width: int) -> list[Text]:
    """The lines of one recipe: its name beside its numbers or above them, and the reason."""
    name, reason = one.row.recipe, " ".join(one.message.split("\n")[0].split())
    line = _beside(name, numbers, name_width, width)
    above, line = ([], line) if line else ([name], GAP + numbers)
    lines = [*above, *_with_reason(line, reason, width)]
    return [Text(text.rstrip(), style=one.style) for text in lines if text]


def _beside(name: str, numbers: str, name_width: int, width: int) -> str:
    """Empty where the longest name leaves no room for the numbers."""
    fits = name_width + len(GAP) + len(numbers) <= width
    return f"{name:<{name_width}}{GAP}{numbers}" if fits else ""


def _with_reason(line: str, reason: str, width: int) -> tuple[str, str]:
    """At the end of the line where there is room, else indented below it."""
    if width - len(line) - len(GAP) >= LEAST_REASON:
        return f"{line}{GAP}{reason}", ""
    return line, f"{GAP}{reason}" if reason else ""


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    sides = ("<" if title in LEFT_ALIGNED else ">" for title in NUMBERS)
    columns = zip(cells, sides, widths, strict=True)
    return GAP.join(f"{cell:{side}{size}}" for cell, side, size in columns)


def duration(seconds: float) -> str:
    """``2:05:00`` or ``5:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
