"""The live table at several widths, whole, and how it is redrawn."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from evenkeel.launch.outcome import JobOutcome, Outcome
from evenkeel.launch.recipe_watch import Row
from evenkeel.report.watch_table import table
from evenkeel.report.watch_view import LineView, LiveView, view_of
from evenkeel.run_paths import RunPaths

LONG = "grpo-qwen3-30b-a3b-4n8g-megatrontp4ep8-long-sequence-packing-fp8"


def row(recipe: str, outcome: JobOutcome, folder: Path, **changes: object) -> Row:
    plain = Row(
        recipe=recipe,
        job_id=17,
        run=1,
        runs=2,
        state="RUNNING",
        reason=outcome.message,
        step=0,
        max_steps=400,
        step_time_s=None,
        left_s=None,
        loss=None,
        gpu_hours=0.0,
        outcome=outcome,
        paths=RunPaths(folder),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """One that passed, one that crashed, one that waits and one that runs, in this order."""
    verdict = {"verdict": "PASS", "message": "2 checks passed", "last_step": 400}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict | {"schema_version": 1}))
    done = JobOutcome(Outcome.COMPLETED, "all 400 steps are done")
    crashed = JobOutcome(Outcome.CRASHED, "AssertionError: shapes differ\nat step 12")
    return [
        row("sft-a-1n8g-fsdp2tp1", done, tmp_path, step=400, loss=0.0625, gpu_hours=3.5),
        row("dpo-b-1n8g-fsdp2tp1", crashed, tmp_path, job_id=18, state="FAILED", step=12),
        row(
            "sft-c-9n8g-fsdp2tp1",
            JobOutcome(Outcome.WAITING, "Resources"),
            tmp_path,
            job_id=1234567,
            state="PENDING",
        ),
        row(
            LONG,
            JobOutcome(Outcome.RUNNING, ""),
            tmp_path,
            step=57,
            step_time_s=71.3,
            left_s=24456.0,
            loss=1.25,
            gpu_hours=36.2,
        ),
    ]


def drawn(rows: list[Row], width: int, height: int = 40) -> list[str]:
    first, *rest = (line.plain for line in table(rows, width, height))
    return [first[len("00:00:00  ") :], *rest]


def test_wide_terminals_show_a_line_per_recipe(rows: list[Row]) -> None:
    name = "recipe".ljust(len(LONG))
    assert drawn(rows, 170) == [
        "2 of 4 done, 1 not good; 39.70 GPU-hours",
        f"{name}      job  run  state          step  s/step     left    loss  GPU-h  reason",
        f"{LONG}       17  1/2  RUNNING      57/400    71.3  6:47:36    1.25  36.20",
        "dpo-b-1n8g-fsdp2tp1".ljust(len(LONG))
        + "       18  1/2  CRASHED      12/400                            0.00"
        "  AssertionError: shapes differ",
        "sft-c-9n8g-fsdp2tp1".ljust(len(LONG))
        + "  1234567  1/2  PENDING       0/400                            0.00  Resources",
        "sft-a-1n8g-fsdp2tp1".ljust(len(LONG))
        + "       17  1/2  PASS        400/400                   0.0625   3.50  2 checks passed",
    ]


def test_a_finished_run_of_which_nothing_else_is_asked_shows_no_verdict(rows: list[Row]) -> None:
    passed = replace(rows[0], state="FINISHED", reason="", is_finished=True)
    title, _, shown = drawn([passed], 120)
    assert title == "1 of 1 done; 3.50 GPU-hours"
    assert shown.split() == (
        ["sft-a-1n8g-fsdp2tp1", "17", "1/2", "FINISHED", "400/400", "0.0625", "3.50"]
    )


def test_narrow_terminals_show_the_same_in_more_lines(rows: list[Row]) -> None:
    assert drawn(rows, 80) == [
        "2 of 4 done, 1 not good; 39.70 GPU-hours",
        "      job  run  state          step  s/step     left    loss  GPU-h",
        LONG,
        "       17  1/2  RUNNING      57/400    71.3  6:47:36    1.25  36.20",
        "dpo-b-1n8g-fsdp2tp1",
        "       18  1/2  CRASHED      12/400                            0.00",
        "  AssertionError: shapes differ",
        "sft-c-9n8g-fsdp2tp1",
        "  1234567  1/2  PENDING       0/400                            0.00",
        "  Resources",
        "sft-a-1n8g-fsdp2tp1",
        "       17  1/2  PASS        400/400                   0.0625   3.50",
        "  2 checks passed",
    ]


@pytest.mark.parametrize("width", [72, 80, 100, 120, 140, 160, 200])
@pytest.mark.parametrize("height", [8, 12, 24, 60])
def test_no_line_is_wider_and_no_table_is_higher_than_the_terminal(
    rows: list[Row], width: int, height: int
) -> None:
    lines = drawn(rows, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    shown = sum(any(line.startswith(one.recipe[:50]) for line in lines) for one in rows)
    left_out = f"; {4 - shown} more not shown"
    assert (left_out in lines[0]) == (shown < 4)
    assert shown >= 1
    # what runs comes first and is never left out
    assert any(line.startswith(LONG[:50]) for line in lines)


def console(width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=30)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_stays_when_interrupted_and_goes_when_all_is_done(rows: list[Row]) -> None:
    interrupted, done = console(), console()
    with LiveView(interrupted) as view:
        view.show(rows, "the controller does not answer")
    with LiveView(done) as view:
        view.show(rows[:2], None)
    erase_line = "\x1b[2K"
    assert "the controller does not answer" in text_of(interrupted)
    assert erase_line not in text_of(interrupted).rpartition("GPU-h")[2]
    assert erase_line in text_of(done).rpartition("2 checks passed")[2]
    for end in (text_of(interrupted), text_of(done)):
        assert end.rindex("\x1b[?25h") > end.rindex("\x1b[?25l")  # the cursor is back


def test_a_resized_terminal_is_cleared_once(rows: list[Row]) -> None:
    out = console()
    with LiveView(out) as view:
        view.show(rows, None)
        view.show(rows, None)
        assert "\x1b[2J" not in text_of(out)
        out.width = 80
        view.show(rows, None)
        view.show(rows, None)
    assert text_of(out).count("\x1b[2J") == 1


def test_without_a_terminal_there_is_a_line_per_change(rows: list[Row]) -> None:
    out = io.StringIO()
    view = view_of(out)
    assert isinstance(view, LineView)
    with view:
        view.show(rows, None)
        view.show(rows, None)
        view.show(rows, "the controller does not answer")
    assert [line[len("00:00:00 ") :] for line in out.getvalue().splitlines()] == [
        "sft-a-1n8g-fsdp2tp1: job 17 (1/2) RUNNING, step 400/400, loss 0.0625, 3.50 GPU-h,"
        " PASS: 2 checks passed",
        "dpo-b-1n8g-fsdp2tp1: job 18 (1/2) FAILED, step 12/400, 0.00 GPU-h,"
        " CRASHED: AssertionError: shapes differ",
        "sft-c-9n8g-fsdp2tp1: job 1234567 (1/2) PENDING, 0.00 GPU-h, Resources",
        f"{LONG}: job 17 (1/2) RUNNING, step 57/400, 71.3 s/step, 6:47:36 left, loss 1.25,"
        " 36.20 GPU-h",
        "cluster: the controller does not answer",
    ]
