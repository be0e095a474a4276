"""Positional arguments and options in any order, which argparse alone does not take."""

from __future__ import annotations

import itertools

import pytest

from evenkeel.cli.command_parser import CommandParser, add_action

TEXT = "What it is for.\n\nexamples:\n  a b"


def declared(parser: CommandParser) -> CommandParser:
    parser.add_argument("run")
    parser.add_argument("more", nargs="*")
    parser.add_argument("--metric", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    return parser


def with_action() -> CommandParser:
    parser = CommandParser(prog="x")
    declared(add_action(parser.add_subparsers(dest="action"), "act", "one", TEXT))
    return parser


@pytest.mark.parametrize("before", [[], ["act"]])
def test_any_order_says_the_same(before: list[str]) -> None:
    parser = with_action() if before else declared(CommandParser(prog="x"))
    for order in itertools.permutations((["a"], ["b"], ["--metric", "m"], ["--json"])):
        words = [word for part in order for word in part]
        found = parser.parse_args([*before, *words])
        kept = [word for word in words if word in ("a", "b")]
        assert ([found.run, *found.more], found.metric, found.json) == (kept, ["m"], True)
    found = parser.parse_args([*before, "a", "--json", "--", "-b"])
    assert (found.run, found.more) == ("a", ["-b"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a", "--josn", "b"], "unrecognized arguments: --josn (did you mean '--json'?)\n"),
        (["a", "--zzz"], "unrecognized arguments: --zzz\n"),
        (["--json"], "the following arguments are required: run"),
    ],
)
def test_what_is_wrong_is_told_with_the_usage(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        declared(CommandParser(prog="x")).parse_args(argv)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith("usage: x [-h] [--metric METRIC] [--json] run [more ...]\n")
    assert message in told


def test_an_option_of_an_action_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        with_action().parse_args(["act", "a", "--metrci=m"])
    assert (
        "unrecognized arguments: --metrci=m (did you mean '--metric'?)" in capsys.readouterr().err
    )


def test_an_option_that_another_action_has_is_no_misspelling(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = CommandParser(prog="x")
    actions = parser.add_subparsers()
    actions.add_parser("first").add_argument("--json")
    actions.add_parser("second")
    with pytest.raises(SystemExit):
        parser.parse_args(["second", "--json"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: --json\n")
