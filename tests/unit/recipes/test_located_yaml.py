from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.recipes.located_yaml import parse, plain, read_tree

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def value(text: str) -> object:
    node = parse(text, "x.yaml")
    assert node is not None
    return plain(node)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("1.", 1.0),
        ("1_000", 1000), ("0x1F", 31), ("-0b11", -3), ("007", 7), ("+4", 4), ("0", 0),
        ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("04:00:00", "04:00:00"), ("1.2.3", "1.2.3"),
        ("8K", "8K"), ("e5", "e5"), ("yes", True), ("Off", False), ("~", None), ("", None),
        ("-.inf", float("-inf")), ("!!str 5", "5"), ("'5'", "5"), ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 1}\nd: {<<: *x, c: 2}", {"a": {"b": 1, "c": 1}, "d": {"b": 1, "c": 2}}),
    ],
)  # fmt: skip
def test_scalars(text: str, expected: object) -> None:
    got = value(f"k: {text}" if "\n" not in text else text)
    assert got == ({"k": expected} if "\n" not in text else expected)
    assert type(got) is dict and repr(got) == repr(
        {"k": expected} if "\n" not in text else expected
    )


@given(JSON)
def test_what_yaml_writes_is_read_back(data: object) -> None:
    assert value(yaml.safe_dump({"k": data})) == {"k": data}


@given(st.text(max_size=60) | st.text("ab01e.:-?[]{},#&*!|>'\"%~< \n\t", max_size=30))
def test_any_text_is_read_as_yaml_has_it_or_refused_at_its_place(text: str) -> None:
    try:
        node = parse(text, "x.yaml")
    except InputError as error:
        assert (error.path, bool(error.message)) == ("x.yaml", True)
        assert error.line is None or 1 <= error.line <= text.count("\n") + 2
        return
    bare = yaml.load(text, Loader=BARE)  # refuses what is no YAML
    assert bare is None if node is None else is_read_from(bare, plain(node))


BARE = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""Takes every scalar for text, and merges nothing."""


def is_read_from(bare: object, read: object) -> bool:
    if isinstance(read, dict):
        assert isinstance(bare, dict)
        if "<<" in bare:
            return bare.keys() - {"<<"} <= read.keys()
        return read.keys() == bare.keys() and all(is_read_from(bare[k], read[k]) for k in read)
    if isinstance(read, list):
        assert isinstance(bare, list)
        return len(read) == len(bare) and all(map(is_read_from, bare, read))
    return read == bare if isinstance(read, str) else isinstance(bare, str)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "key 'a' stands twice in one mapping, first on line 1"),
        ("a:\n\tb: 1\n", 2, 1, "cannot start any token"),
        ("a: [1\nb: 2\n", 2, 2, "not YAML"),
        ("? [1]\n: 2\n", 1, 3, "a key must be a single word"),
        ("a: !!python/object:os.system x\n", 1, 4, "cannot read 'x'"),
        ("a: &x\n  b: *x\n", 1, 4, "an alias that contains itself"),
        ("a: 1\n---\nb: 2\n", 2, 1, "another document"),
        ("<<: 3\n", 1, 5, "'<<' wants a mapping"),
    ],
)
def test_a_mistake_has_its_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, "x.yaml")
    assert words in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)


def test_tabs_get_the_mend() -> None:
    with pytest.raises(InputError) as caught:
        parse("a:\n\tb: 1\n", "x.yaml")
    assert caught.value.fix == "indent with spaces: YAML does not allow tabs there"


def test_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(InputError, match="far too many aliases"):
        parse("\n".join(lines), "x.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- a\n- b\n", "the top level is a list"),
        (b"hello\n", "the top level is text"),
        (b"a: \xff\n", "not UTF-8 text: byte 3 is 0xff"),
        (b"a: \x00\n", "not YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_tree(path, "x.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(InputError, match="cannot read it"):
            read_tree(path, "x.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert list(read_tree(path, "x.yaml")) == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 100_000,
        "a: " + "[" * 500 + "]" * 500,
        "- " * 500 + "x",
        "? " * 500 + "x",
        "\n".join(" " * depth + "a:" for depth in range(500)),
        "\n".join(["a0: &a0 []", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 500))]),
    ],
    ids=["open", "flow", "lists", "keys", "indented", "aliases"],
)
def test_nesting_has_an_end(text: str) -> None:
    # PyYAML has a limit of its own since 6.0.4
    with pytest.raises(InputError, match=r"nested more than 100 levels deep|maximum nesting depth"):
        parse(text, "x.yaml")
