"""What the top of the command line says: unknown commands, and examples that can be copied."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from evenkeel.cli.command_parser import CommandParser
from evenkeel.cli.main import SUBCOMMANDS, main

_ROOT = Path(__file__).parents[3]


def test_a_mistyped_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lnt"]) == 2
    assert "no command 'lnt' (did you mean 'lint'?)" in capsys.readouterr().err


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """What is typed, and the parser of it: every subcommand and each of its actions."""
    for command, (module, _) in SUBCOMMANDS.items():
        parser = CommandParser(prog=command)
        importlib.import_module(f"evenkeel.cli.{module}").add_arguments(parser)
        yield command, parser
        for name, action in actions_of(parser).items():
            yield f"{command} {name}", action


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for argument in parser._actions:
        if isinstance(argument, argparse._SubParsersAction):
            return dict(argument.choices)
    return {}


def examples_of(parser: argparse.ArgumentParser) -> list[str]:
    assert parser.epilog is not None
    return parser.epilog.partition("examples:\n")[2].partition("\n\n")[0].splitlines()


PARSERS = dict(parsers())
ACTIONS = [typed for typed in PARSERS if " " in typed]


@pytest.mark.parametrize("typed", PARSERS)
def test_examples_copy_into_a_shell(typed: str) -> None:
    examples = examples_of(PARSERS[typed])
    assert examples
    for line in examples:
        said = re.search(r"\S {2,}(\S)", line)
        assert said is None or said[1] in "#\\'", f"a remark without '#': {line}"
        for taken in re.findall(r"evenkeel (?:rename|bump) ((?:sft|dpo|grpo)-\S+)", line):
            assert (_ROOT / f"tests/test_suites/llm/{taken}.sh").is_file(), line
        for taken in re.findall(r"--from ((?:sft|dpo|grpo)-\S+)", line):
            assert (_ROOT / f"tests/test_suites/llm/{taken}.sh").is_file(), line


@pytest.mark.parametrize("typed", PARSERS)
def test_examples_are_of_their_command_and_parse(typed: str) -> None:
    text = "\n".join(examples_of(PARSERS[typed])).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    called = [[word for word in line if not re.match(r"[A-Z]+=", word)] for line in words if line]
    assert called
    for call in called:
        if call[0].endswith("continue.sh"):
            continue
        argv = ["launch", *call[1:]] if call[0] == "tools/launch" else call[1:]
        argv = argv[: argv.index("|")] if "|" in argv else argv
        assert " ".join(argv).startswith(typed)
        PARSERS[argv[0]].parse_args(argv[1:])  # exits where it does not know an argument


@pytest.mark.parametrize("typed", ACTIONS)
def test_an_action_says_what_it_is_for(typed: str) -> None:
    parser = PARSERS[typed]
    assert parser.description is not None and len(parser.description) > 80
    assert parser.formatter_class is argparse.RawDescriptionHelpFormatter
    assert max(map(len, f"{parser.description}\n{parser.epilog}".splitlines())) <= 100


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
