"""CONFIG blocks are read exactly as bash would compute them, and nothing in them is ever run."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes import config_block

PLAIN = """\
NUM_NODES=2
STEPS_PER_RUN=100  # step_time ~ 15sec
MAX_STEPS=250
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # Round up
NUM_MINUTES=$((60*4))
"""


def driver(body: str, newline: str = "\n") -> str:
    lines = ["#!/usr/bin/env bash", "# ===== BEGIN CONFIG =====", *body.splitlines()]
    return newline.join([*lines, "# ===== END CONFIG =====", "exit $(false)", ""])


def refusal(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        config_block.parse(text, "llm/x.sh")
    return caught.value


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_block_gives_exact_integers(newline: str) -> None:
    block = config_block.parse(driver(PLAIN, newline), "llm/x.sh")
    assert (block.num_nodes, block.gpus_per_node, block.num_gpus) == (2, 8, 16)
    assert (block.steps_per_run, block.max_steps, block.num_runs) == (100, 250, 3)
    assert (block.num_minutes, block.gpu_minutes) == (240, 3 * 16 * 240)
    assert dict(block.lines) == {
        "NUM_NODES": 3,
        "STEPS_PER_RUN": 4,
        "MAX_STEPS": 5,
        "NUM_RUNS": 6,
        "NUM_MINUTES": 7,
    }
    assert (block.begin_line, block.end_line, block.crlf) == (2, 8, newline == "\r\n")
    num_minutes = block.assignments[-1]
    assert (num_minutes.raw, num_minutes.line, num_minutes.column) == ("$((60*4))", 7, 13)


def test_later_assignments_win_and_other_variables_are_kept() -> None:
    body = (
        PLAIN + '\n  # more\n\tGPUS_PER_NODE=4; NUM_NODES=3\nexport JOB_COMMENT="a b: ${MAX_STEPS}"'
    )
    block = config_block.parse(driver(body))
    assert (block.num_nodes, block.gpus_per_node) == (3, 4)
    assert block.variables["JOB_COMMENT"] == "a b: 250"
    assert block.text("JOB_COMMENT") == "a b: 250"
    assert block.text("SEGMENT_SIZE") is None


@pytest.mark.parametrize(
    ("value", "column", "message"),
    [
        ("$(touch planted)", 11, "would run a command"),
        ("`touch planted`", 11, "would run a command"),
        ('"$(touch planted)"', 12, "would run a command"),
        ("$((1 + $(touch planted)))", 18, "would run a command"),
        ("<(touch planted)", 11, "'<' is not read"),
        ("1 && touch planted", 13, "not an assignment"),
        ("1; touch planted", 14, "'touch' is not an assignment"),
        ("1 touch planted", 13, "'touch' is not an assignment"),
        ("${X:=1}", 11, "only ${NAME}"),
        ("$((MAX_STEPS=3))", 23, "'='"),
        ("$((1/0))", 15, "division by zero"),
        ("$((08))", 14, "octal"),
        ("08", 11, "octal"),
        ("two", 11, "not an integer"),
        ("", 11, "empty"),
        ("0", 11, "less than 1"),
        ("-1", 11, "less than 1"),
        ("$MAX_NODES", 11, "MAX_NODES is not assigned"),
        ("9223372036854775808", 11, "64 bits"),
        ("'1", 11, "not closed"),
        ("$((1", 11, "not closed"),
    ],
)
def test_anything_else_is_refused_with_its_place(
    value: str, column: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(driver(f"MAX_STEPS=1\n{PLAIN}NUM_NODES={value}"))
    assert (error.line, error.column) == (9, column)
    assert message in error.message
    assert error.fix
    assert list(tmp_path.iterdir()) == []


def test_missing_variables_are_all_named() -> None:
    error = refusal(driver("NUM_NODES=1\nMAX_STEPS=5"))
    assert "no STEPS_PER_RUN, NUM_RUNS, NUM_MINUTES" in error.message
    assert error.line == 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("echo hello\n", None, "no CONFIG block"),
        ("# ===== BEGIN CONFIG =====\nNUM_NODES=1\n", 1, "not closed"),
        ("NUM_NODES=1\n# ===== END CONFIG =====\n", 2, "without a BEGIN"),
        (driver(PLAIN) + driver(PLAIN), 11, "second BEGIN"),
        (driver("# ===== BEGIN CONFIG ====="), 3, "second BEGIN"),
    ],
)
def test_the_markers_must_be_one_pair(text: str, line: int | None, message: str) -> None:
    error = refusal(text)
    assert error.line == line
    assert message in error.message


def test_spaces_around_the_equals_sign_get_their_own_message() -> None:
    error = refusal(driver("NUM_NODES = 1"))
    assert "command called NUM_NODES" in error.message
    assert error.fix == "write NUM_NODES= and the value without spaces"


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("#BEGIN CONFIG", "#END CONFIG"),
        ("  ## === BEGIN CONFIG ===", "# ---- END CONFIG ----"),
        ("# ===== BEGIN CONFIG ===== edit below", "# ===== END CONFIG =====   "),
    ],
)
def test_markers_as_people_write_them(begin: str, end: str) -> None:
    text = f"# about BEGIN CONFIG\n{begin}\n{PLAIN}{end}\n# the END CONFIG line is above\n"
    assert config_block.parse(text).num_runs == 3
