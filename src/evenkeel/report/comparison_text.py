"""A comparison for people: a table of what is not a plain pass, a plot of each, the verdict."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evenkeel.convergence import matched
from evenkeel.convergence.metric_kinds import Family
from evenkeel.convergence.results import Comparison, MetricResult, Picture
from evenkeel.convergence.verdict import Verdict
from evenkeel.report.terminal import PLAIN_WIDTH, number, print_table, print_words, verdict_style

_PLOT_ROWS = 9
_PLOT_COLUMNS = 60
_MIN_PLOT_COLUMNS = 20
_PLOT_MARGIN = 12  # of labels and axis
_MAX_PLOTS = 3
_LEGEND = "o the run, X out of the band ░ of the baseline"


def print_comparison(comparison: Comparison, name: str, *, everything: bool = False) -> None:
    """Table, plots and verdict to standard output.

    Args:
        comparison: what to show.
        name: of the run.
        everything: show the metrics that passed, too.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    _render(console, comparison, name, everything)


def comparison_text(comparison: Comparison, name: str, *, everything: bool = False) -> str:
    """What ``print_comparison`` shows, without colour."""
    buffer = io.StringIO()
    _render(Console(file=buffer, highlight=False, width=PLAIN_WIDTH), comparison, name, everything)
    return buffer.getvalue()


def render_evidence(console: Console, comparison: Comparison, everything: bool = False) -> None:
    """Table, plots, messages and notes, without the verdict."""
    offending = comparison.offending()
    shown = list(comparison.results) if everything else offending
    if shown:
        print_table(console, results_table(shown))
    plotted: set[str] = set()
    for one in offending:
        if one.picture and one.metric not in plotted and len(plotted) < _MAX_PLOTS:
            plotted.add(one.metric)
            console.print(f"{escape(one.metric)} ({_LEGEND})")
            print_plot(console, one.picture)
    for one in offending:
        print_words(console, f"  {escape(one.metric)} {one.summary}: {escape(one.message)}")
    for note in comparison.notes:
        print_words(console, f"  note: {escape(note)}")
    for line in _coarse_lines(comparison):
        print_words(console, f"  {escape(line)}")


def results_table(results: Sequence[MetricResult]) -> Table:
    """Metric, summary, value, allowed interval, change, minimum detectable change, finding."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", overflow="fold")
    table.add_column("summary")
    for column in ("value", "allowed", "change", "detectable"):
        table.add_column(column, justify="right")
    table.add_column("finding")
    for one in results:
        style = "green" if one.verdict is Verdict.PASS else verdict_style(one.verdict)
        interval = "-" if one.low is None else f"{number(one.low)} … {number(one.high)}"
        table.add_row(
            escape(one.metric),
            one.summary,
            number(one.value),
            interval,
            percent(one.change),
            percent(one.minimum_detectable_change, sign=False) + ("!" if one.coarse else ""),
            f"[{style}]{one.label.lower()}[/]",
        )
    return table


def explanation(results: Sequence[MetricResult]) -> str:
    """Results of one metric in full, for a failed test.

    For each its message, the baseline and what it would find; a plot for all of them.
    """
    lines = []
    for one in results:
        lines.append(f"{one.summary}: {one.label}: {one.message}")
        if one.baseline is not None:
            what = "recorded" if one.summary == matched.SUMMARY else "baseline mean"
            detectable = percent(one.minimum_detectable_change, sign=False)
            lines.append(
                f"  {what} {number(one.baseline)}, passes from {number(one.low)} to"
                f" {number(one.high)}; changes from {detectable} are found"
            )
    picture = next((one.picture for one in results if one.picture is not None), None)
    if picture is not None:
        lines += [_LEGEND, *plot(picture)]
    return "\n".join(lines)


def percent(value: float | None, *, sign: bool = True) -> str:
    """A relative change; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value >= 100:
        return f"x{1 + value:.3g}"
    if 0 < abs(value) < 5e-5:  # far below what seeds show: told by the run of the same seed
        return f"{100 * value:+.1g}%" if sign else f"{100 * value:.1g}%"
    return f"{value:+.2%}" if sign else f"{value:.2%}"


def print_plot(console: Console, picture: Picture) -> None:
    """A curve over its band, no wider than the terminal."""
    columns = max(_MIN_PLOT_COLUMNS, min(_PLOT_COLUMNS, console.width - _PLOT_MARGIN))
    console.print("\n".join(plot(picture, columns)), markup=False, soft_wrap=True)


def plot(picture: Picture, columns: int = _PLOT_COLUMNS, rows: int = _PLOT_ROWS) -> list[str]:
    """A curve (``o``, ``X`` where it leaves the band) over the baseline's band (``░``).

    Args:
        picture: at least one block.
        columns: at most so many blocks are drawn.
        rows: height.
    """
    count = len(picture.steps)
    chosen = [round(i * (count - 1) / max(columns - 1, 1)) for i in range(columns)]
    chosen = chosen if count > columns else list(range(count))
    drawn = [(picture.low[i], picture.high[i], picture.value[i]) for i in chosen]
    finite = [value for three in drawn for value in three if math.isfinite(value)]
    bottom, top = min(finite), max(finite)
    size = (top - bottom) or 1.0

    def row(value: float) -> int:
        return min(rows - 1, max(0, round((top - value) / size * (rows - 1))))

    grid = [[" "] * len(drawn) for _ in range(rows)]
    for column, (low, high, value) in enumerate(drawn):
        for line in range(row(high), row(low) + 1):
            grid[line][column] = "░"
        grid[row(value)][column] = "o" if low <= value <= high else "X"
    labels = {0: f"{top:.5g}", rows - 1: f"{bottom:.5g}"}
    lines = [f"{labels.get(i, ''):>10} │{''.join(cells)}" for i, cells in enumerate(grid)]
    first, last = f"step {picture.steps[0]}", str(picture.steps[chosen[-1]])
    gap = max(1, len(drawn) - len(first) - len(last))
    return [*lines, f"{'':>10} └{'─' * len(drawn)}", f"{'':>12}{first}{' ' * gap}{last}"]


def _render(console: Console, comparison: Comparison, name: str, everything: bool) -> None:
    render_evidence(console, comparison, everything)
    verdict, told = comparison.verdict, escape(comparison.headline)
    print_words(console, f"[{verdict_style(verdict)}]{verdict.value}[/] {escape(name)}: {told}")
    print_words(console, _promise(comparison))


def _coarse_lines(comparison: Comparison) -> list[str]:
    """What is too coarse to find much, with what would mend it."""
    best: dict[str, MetricResult] = {}
    for one in comparison.results:
        change = one.minimum_detectable_change
        if one.family is not Family.CONVERGENCE or change is None:
            continue
        known = best.get(one.metric)
        if known is None or change < (known.minimum_detectable_change or 0):
            best[one.metric] = one
    return [
        f"coarse: {one.metric} shows only changes above "
        f"{percent(one.minimum_detectable_change, sign=False)}{_advice(one)}"
        for one in best.values()
        if one.coarse
    ]


def _advice(one: MetricResult) -> str:
    if one.runs_needed is None:
        return "; more runs would not make it fine enough"
    return f"; with about {one.runs_needed} baseline runs it would be fine enough"


def _promise(comparison: Comparison) -> str:
    budget = comparison.budget
    over = f" over {budget.num_recipes} recipes" if budget.num_recipes > 1 else ""
    return (
        f"healthy runs raise an alarm in at most {budget.family_error:.2%} of nights{over} "
        f"(baseline runs: {comparison.num_baseline}, look {min(comparison.num_new, budget.looks)}"
        f" of at most {budget.looks})"
    )
