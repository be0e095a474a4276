from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.recipes.lint.driver_text import UNKNOWN, commands_of


def words(text: str, **variables: str) -> list[list[str]]:
    return [[word.text for word in command.words] for command in commands_of(text, variables)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b\nc", [["a", "b"], ["c"]]),
        ("a \\\n  'b c' \"d e\"f # g\n", [["a", "b c", "d ef"]]),
        ("a; b && c || d | e & f", [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]),
        ("a > out 2>&1 < in b", [["a", "b"]]),
        ("cat <<EOF\nit's 'text\nEOF\nb", [["cat"], ["b"]]),
        ("cat <<-'E'\n\tx\n\tE\nb", [["cat"], ["b"]]),
        ("X=1 Y='2 3'\nb $X \"${Y}\"", [["b", "1", "2 3"]]),
        ("b $X", [["b", UNKNOWN]]),
        ("b $(c \"$(d)\" ')') e", [["b", UNKNOWN, "e"]]),
        ("b `c d` ${X:-y} $((1 + 2))", [["b", UNKNOWN, UNKNOWN, UNKNOWN]]),
        ("X=$(c)\nb $X", [["b", UNKNOWN]]),
        ("export X=1\nb $X", [["b", "1"]]),
        ("X=1 b $X", [["b", UNKNOWN]]),
        ("a#b c", [["a#b", "c"]]),
        ("'unclosed", [["unclosed"]]),
        ('"unclosed $(', [[f"unclosed {UNKNOWN}"]]),
        ("a \\", [["a", ""]]),
        (r'"a\"b\$c\d"', [[r'a"b$c\d']]),
    ],
)
def test_words_are_those_of_a_shell(text: str, expected: list[list[str]]) -> None:
    assert words(text) == expected


def test_what_is_known_before_keeps_its_value() -> None:
    assert words("X=$(pwd)\nb $X", X="/root") == [["b", "/root"]]


def test_lines_are_where_words_begin() -> None:
    (command,) = commands_of('X="\n"\na \\\n  b \\\n  "c\n" d', {})
    assert [(word.text, word.line) for word in command.words] == [
        ("a", 3), ("b", 4), ("c\n", 5), ("d", 6),
    ]  # fmt: skip


@given(st.text(alphabet="ab \t\n\\'\"$(){}`#;&|<>=0_", max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    for command in commands_of(text, {"a": "x"}):
        assert command.words
        assert all(1 <= word.line <= text.count("\n") + 1 for word in command.words)
