"""What the top of the command line says: unknown commands, and examples that can be copied."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from evenkeel.cli.main import SUBCOMMANDS, main

_ROOT = Path(__file__).parents[3]


def test_a_mistyped_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lnt"]) == 2
    assert "no command 'lnt' (did you mean 'lint'?)" in capsys.readouterr().err


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_examples_copy_into_a_shell(command: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"evenkeel.cli.{SUBCOMMANDS[command][0]}").add_arguments(parser)
    assert parser.epilog is not None
    examples = parser.epilog.partition("examples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples
    for line in examples:
        said = re.search(r"\S {3,}(\S)", line)
        assert said is None or said[1] in "#\\", f"a remark without '#': {line}"
        for taken in re.findall(r"evenkeel (?:rename|bump) ((?:sft|dpo|grpo)-\S+)", line):
            assert (_ROOT / f"tests/test_suites/llm/{taken}.sh").is_file(), line
        for taken in re.findall(r"--from ((?:sft|dpo|grpo)-\S+)", line):
            assert (_ROOT / f"tests/test_suites/llm/{taken}.sh").is_file(), line


def test_a_night_without_a_rotation_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--night", "2026-01-31", "--root", str(_ROOT)]) == 2
    assert "--nights N" in capsys.readouterr().err


def test_one_start_has_no_seam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = tmp_path / "metrics.json"
    metrics.write_text('{"train/loss": {"1": 2.0, "2": 1.5}}', encoding="utf-8")
    assert main(["seams", str(metrics)]) == 0
    assert capsys.readouterr().out == "no seam: only one start\n"
    assert main(["seams", str(tmp_path / "missing")]) == 2
    assert "missing: no such run" in capsys.readouterr().err


def test_judging_no_run_at_all_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ["--judge-only", "--resume", str(tmp_path / "none"), "--root", str(_ROOT)]
    assert main(["mutate", *results]) == 2
    assert "no run of these recipes is kept here" in capsys.readouterr().err
