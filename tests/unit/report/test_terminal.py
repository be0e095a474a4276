"""What people see of a judgement."""

from __future__ import annotations

import io
import math

from rich.console import Console
from rich.table import Table

from evenkeel.convergence.verdict import RunState, Verdict, judge
from evenkeel.metrics.evaluation import evaluate_text
from evenkeel.report import terminal

METRICS = {"train/loss": {1: 4.0, 2: 1.25, 3: 0.75}, "train/grad_norm": {3: math.nan}}


def shown(*checks: str) -> list[str]:
    judged = judge(RunState(3, 3, 0), METRICS, [evaluate_text(check, METRICS) for check in checks])
    text = terminal.judgement_text(judged, "sft-[x]-1n1g-fsdp2tp1")
    return [line.rstrip() for line in text.splitlines()]


def test_a_passed_run() -> None:
    assert shown('mean(data["train/loss"], -2, 0) < 2', 'data["train/loss"]["3"] > 0') == [
        "",
        " check                                 value   bound        margin   samples   outcome",
        " ─────────────────────────────────────────────────────────────────────────────────────",
        ' mean(data["train/loss"], -2, 0) < 2       1       2   +1 (+50.0%)         2   passed',
        ' data["train/loss"]["3"] > 0            0.75       0         +0.75         1   passed',
        "",
        "PASS sft-[x]-1n1g-fsdp2tp1: 2 checks passed",
    ]


def test_a_failed_and_an_unreadable_check_say_why() -> None:
    lines = shown('data["train/loss"]["3"] < 0.5', 'max(data["train/grad_norm"]) < 1')
    assert "failed" in lines[3]
    assert "-0.25 (-50.0%)" in lines[3]
    assert "non_finite" in lines[4]
    assert "step 3" in lines[6]
    assert lines[7].startswith("NON_FINITE sft-[x]-1n1g-fsdp2tp1: ")


def test_a_check_that_comes_to_no_number_says_why() -> None:
    assert "  divides by zero" in shown("1 / (data['train/loss'][3] - 0.75) < 2")


def test_without_checks_there_is_only_the_verdict() -> None:
    assert shown() == [
        "NO_BASELINE sft-[x]-1n1g-fsdp2tp1: there is neither a baseline nor a check to judge it by"
    ]


def test_every_verdict_has_a_style() -> None:
    styles = {verdict: terminal.verdict_style(verdict) for verdict in Verdict}
    assert styles[Verdict.PASS] != styles[Verdict.REGRESSED] != styles[Verdict.INCONCLUSIVE]


def test_a_narrow_terminal_cuts_no_number() -> None:
    table = Table("metric", "value")
    table.add_row("timing/train/total_step_time", "0.000123456")
    printed = io.StringIO()
    console = Console(file=printed, width=20)
    terminal.print_table(console, table)
    assert "timing/train/total_step_time" in printed.getvalue()
    assert "0.000123456" in printed.getvalue()
    assert console.width == 20
