"""Checks' texts: what they mean as a tree, and what is said about those that mean nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.metrics.expression import (
    Aggregate,
    Check,
    Compare,
    Function,
    Logic,
    Not,
    Number,
    Step,
    StepRange,
    children,
    walk,
)
from evenkeel.metrics.parser import parse


def test_the_tree_of_the_forms_that_suites_use() -> None:
    check = parse('data["train/loss"]["1"] < 0.82')
    assert check == Check(
        'data["train/loss"]["1"] < 0.82',
        Compare((Step("train/loss", 1), Number(0.82)), ("<",)),
    )
    assert parse("data['a'][1] < 1").reads == (Step("a", 1),)
    assert parse('max(data["a"]) < 1').reads == (Aggregate(Function.MAX, "a"),)
    tail = Aggregate(Function.MEAN, "a", StepRange(-10, -1), 0.05)
    for text in (
        'mean(data["a"], -10, -1, ignore_top_p=0.05) < 1',
        'mean(data["a"], range_start=-10, range_end=-1, ignore_top_p=0.05) < 1',
        'mean(data["a"], start=-10, end=-1, ignore_top_p=0.05) < 1',
        'mean(data["a"], -10, -1, 0.05) < 1',
    ):
        assert parse(text).reads == (tail,), text
    share = Aggregate(Function.RATIO_ABOVE, "a", StepRange(2, 0), bound=-1.5)
    assert parse('ratio_above(data["a"], -1.5, 2, 0) < 1').reads == (share,)
    assert parse('ratio_above(data["a"], threshold=-1.5, start=2, end=0) < 1').reads == (share,)


def test_what_a_check_reads_and_compares() -> None:
    check = parse(
        '0 < mean(data["a"]) < 2 * max(data["b"], 3) and not min(data["a"], 1) > data["c"]["4"]'
    )
    assert check.metrics == ("a", "b", "c")
    assert [type(read).__name__ for read in check.reads] == [
        "Aggregate",
        "Aggregate",
        "Aggregate",
        "Step",
    ]
    assert [compare.ops for compare in check.comparisons] == [("<", "<"), (">",)]
    assert isinstance(check.tree, Logic)
    assert isinstance(check.tree.operands[1], Not)


def test_line_breaks_and_surrounding_space_are_fine() -> None:
    assert parse('  data["a"]["1"]\n\t < 2 ').tree == parse('data["a"]["1"] < 2').tree


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        (' dat["x"]["1"] < 2', "unknown name 'dat' (did you mean 'data'?)", 2),
        ('data["x"] < 2', "'x' is a whole metric", 1),
        ("data < 2", "'data' is every metric", 1),
        ('data["x"]["1"]', "a number, not a condition", 1),
        ('data["x"]["1.5"] < 2', "step '1.5' is not a whole number", 11),
        ('data["x"][1.5] < 2', "a step is a whole number", 11),
        ("data[x][1] < 2", "a metric's name is a text in quotes", 6),
        ('data["x"]["1"]["2"] < 2', "a metric is expected here", 1),
        ('means(data["x"]) < 1', "unknown function 'means' (did you mean 'mean'?)", 1),
        ('mean(data["x"]["1"]) < 1', "a metric is expected here", 6),
        ("mean() < 1", "mean reads a metric", 1),
        ('mean(data["x"], 1.5) < 2', "the start of a range is a whole number", 17),
        ('mean(data["x"], 1, True) < 2', "the end of a range is a whole number", 20),
        ('mean(data["x"], 1, 2, 0.5, 5) < 2', "takes at most start, end, ignore_top_p", 28),
        ('mean(data["x"], ignore_top=0.1) < 2', "did you mean 'ignore_top_p'?", 28),
        ('mean(data["x"], ignore_top_p=5) < 2', "a share from 0 to 1, not 5", 30),
        ('mean(data["x"], 1, start=2) < 2', "start is given twice", 26),
        ('mean(*data["x"]) < 2', "'*' is not part", 6),
        ('mean(**data["x"]) < 2', "mean reads a metric", 1),
        ('ratio_above(data["x"]) < 2', "needs a bound", 1),
        ('abs(data["x"]["1"], 2) < 2', "abs takes one number", 1),
        ("max(1) < 2", "a metric or several numbers", 1),
        ('(data["x"]["1"] < 2) + 1 < 3', "a number is expected here, not a condition", 2),
        ('not data["x"]["1"]', "a number, not a condition", 5),
        ('data["x"]["1"] <', "does not read", 17),
        ('data["x"]["1"] is 3', "'is' is no comparison", 1),
        ('1 in data["x"]', "'in' is no comparison", 1),
        ('data["x"]["1"] < 1e999', "too large", 18),
        ('data["x"]["1"] < "2"', "not '2'", 18),
        ('data["x"]["1"] < True', "not True", 18),
        ('data["é"]["1"] < yes', "unknown name 'yes'", 18),
        ('data.x["1"] < 2', "a metric is expected here", 1),
        ('__import__("os").system("true") < 1', "only the functions below", 1),
        ("(lambda: 1)() < 1", "only the functions below", 2),
        ("[1] < 2", "List is not part", 1),
        ('f"{1}" < 2', "JoinedStr is not part", 1),
        ("(x := 1) < 2", "NamedExpr is not part", 2),
        ("1 if 2 < 3 else 4", "IfExp is not part", 1),
        ("~1 < 2", "UnaryOp is not part", 1),
        ("1 << 2 < 3", "BinOp is not part", 1),
    ],
)
def test_a_text_that_is_no_check_is_shown_with_the_place(
    text: str, message: str, column: int
) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    shown = str(caught.value)
    assert message in shown
    lines = shown.splitlines()
    pointer = next(number for number, line in enumerate(lines) if line.lstrip().startswith("^"))
    assert lines[pointer].endswith(f"^ column {column}")
    assert lines[pointer].index("^") - 4 == column - 1
    assert lines[pointer - 1] == f"    {text}"
    assert "fix: " in shown


@pytest.mark.parametrize("text", ["", "   ", "\n", "\x00", "\ud800", "#", "1 <", "(" * 3000])
def test_texts_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_size_and_depth_are_limited() -> None:
    for text in (
        "-" * 3900 + "1 < 2",
        "not " * 900 + "1 < 2",
        "(" * 150 + "1" + ")" * 150 + "+1" * 400 + " < 2",
        "+".join(["1"] * 300) + " < 2",
        "1 < 2" + " " * 4000,
        'data["' + "x" * 4000 + '"]["1"] < 2',
    ):
        with pytest.raises(InputError):
            parse(text)
    assert len(list(walk(parse("+".join(["1"] * 150) + " < 2").tree))) == 301


WORDS = [
    "data",
    '["a"]',
    '["1"]',
    "[1]",
    "mean",
    "max",
    "(",
    ")",
    ",",
    "-",
    "1",
    "9",
    "**",
    "*",
    "<",
    ">",
    "==",
    "and",
    "or",
    "not",
    "0.5",
    "e9",
    "ignore_top_p=",
    ".",
    ":",
    "lambda",
    "{",
    "}",
    '"',
    "'",
    "\\",
    "é",
    "if",
    "else",
    "for",
    "in",
    "=",
    "%",
]
FRAGMENTS = st.lists(st.sampled_from([*WORDS, " ", "\n", "\t"]), max_size=40).map("".join)


@given(st.one_of(FRAGMENTS, st.text(max_size=60)))
def test_no_text_makes_the_parser_crash(text: str) -> None:
    try:
        check = parse(text)
    except InputError as error:
        assert "fix:" in str(error)
    else:
        assert check.comparisons
        assert all(children(node) is not None for node in walk(check.tree))
