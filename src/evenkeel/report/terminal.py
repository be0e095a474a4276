"""Tables and verdict lines for people at a terminal; plain text where there is none."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from evenkeel.convergence.verdict import Judgement, Verdict
from evenkeel.metrics.evaluation import CheckResult, Outcome

PLAIN_WIDTH = 120

_STYLES = {Verdict.PASS: "bold green", Verdict.IMPROVED: "bold green"}
_UNDECIDED = "bold yellow"
_BAD = "bold red"
_DECIDED_AGAINST = {Verdict.REGRESSED, Verdict.NON_FINITE, Verdict.CRASHED}


def print_judgement(judgement: Judgement, name: str) -> None:
    """The checks of a run as a table, and its verdict, to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    _render(console, judgement, name)


def judgement_text(judgement: Judgement, name: str) -> str:
    """What ``print_judgement`` shows, without colour."""
    buffer = io.StringIO()
    _render(Console(file=buffer, highlight=False, width=PLAIN_WIDTH), judgement, name)
    return buffer.getvalue()


def checks_table(checks: Sequence[CheckResult]) -> Table:
    """Check, value, bound, margin (with its share of the bound), samples read, and outcome."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", overflow="fold")
    for column in ("value", "bound", "margin", "samples"):
        table.add_column(column, justify="right")
    table.add_column("outcome")
    for check in checks:
        style = "green" if check.passed else "red"
        table.add_row(
            escape(check.check),
            number(check.value),
            number(check.bound),
            _margin(check),
            str(check.samples),
            f"[{style}]{check.outcome.value.lower()}[/]",
        )
    return table


def print_table(console: Console, table: Table, *, plain_width: int = PLAIN_WIDTH) -> None:
    """A table with its numbers whole.

    A terminal narrower than the table wraps its lines, up to the width of what goes into a file.
    """
    unbounded = console.options.update_width(sys.maxsize)
    natural = Measurement.get(console, unbounded, table).maximum
    terminal_width = console.width
    console.width = max(terminal_width, min(natural, plain_width))
    console.print(table)
    console.width = terminal_width


def print_words(console: Console, text: str) -> None:
    """A line of words: terminals break it between two of them, files keep it whole for grep."""
    console.print(text, soft_wrap=not console.is_terminal)


def print_lines(findings: Iterable[tuple[Verdict, str]]) -> None:
    """One line per finding, its verdict first, to standard output."""
    console = Console(highlight=False)
    for verdict, text in findings:
        console.print(f"[{verdict_style(verdict)}]{verdict.value:<10}[/] {escape(text)}",
                      soft_wrap=True)  # fmt: skip


def number(value: float | None) -> str:
    """Six significant digits, or a dash where there is none."""
    return "-" if value is None else f"{value:.6g}"


def verdict_style(verdict: Verdict) -> str:
    """Green for what exits 0, red for what is decided against the run, else yellow."""
    return _STYLES.get(verdict, _BAD if verdict in _DECIDED_AGAINST else _UNDECIDED)


def _render(console: Console, judgement: Judgement, name: str) -> None:
    if judgement.checks:
        print_table(console, checks_table(judgement.checks))
    for check in judgement.checks:
        # a failed check whose row has numbers needs no words; one that divides by zero does
        if check.outcome is not Outcome.PASSED and check.value is None:
            print_words(console, f"  {escape(check.message)}")
    if judgement.comparison is not None:
        from evenkeel.report.comparison_text import render_evidence

        render_evidence(console, judgement.comparison)
    for seam in judgement.seams:
        print_words(
            console,
            f"  {'seam' if seam.decides else 'note: seam'}: {escape(seam.metric)} {seam.kind} at"
            f" step {seam.step}: {escape(seam.message)}",
        )
    style, verdict = verdict_style(judgement.verdict), judgement.verdict.value
    print_words(console, f"[{style}]{verdict}[/] {escape(name)}: {escape(judgement.message)}")


def _margin(check: CheckResult) -> str:
    if check.margin is None:
        return "-"
    share = check.relative_margin
    return f"{check.margin:+.4g}" + (f" ({share:+.1%})" if share is not None else "")
