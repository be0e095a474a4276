from __future__ import annotations

import os
from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes.config import load_untyped


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_later_files_win_and_the_own_content_wins_over_all(tmp_path: Path) -> None:
    write(tmp_path, "base/a.yaml", "x: {p: 1, q: 1, r: 1}\nlist: [1, 2, 3]\n")
    write(tmp_path, "base/b.yaml", "defaults: a\nx: {q: 2, r: 2}\nlist: [4]\n")
    path = write(tmp_path, "mine.yaml", "defaults: [base/b.yaml, base/a.yaml]\nx: {r: 3}\n")
    assert load_untyped(path).values == {"x": {"p": 1, "q": 1, "r": 3}, "list": [1, 2, 3]}


def test_self_says_where_the_own_content_goes(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "x: 1\n")
    path = write(tmp_path, "mine.yaml", "defaults: [_self_, a.yaml]\nx: 2\ny: 2\n")
    assert load_untyped(path).values == {"x": 1, "y": 2}


def test_a_diamond_is_fine(tmp_path: Path) -> None:
    write(tmp_path, "top.yaml", "x: 0\n")
    write(tmp_path, "left.yaml", "defaults: top.yaml\nleft: 1\n")
    write(tmp_path, "right.yaml", "defaults: top.yaml\nright: 1\n")
    path = write(tmp_path, "mine.yaml", "defaults: [left.yaml, right.yaml]\n")
    assert load_untyped(path).values == {"x": 0, "left": 1, "right": 1}


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_is_shown_whole(tmp_path: Path, length: int) -> None:
    for index in range(length):
        write(tmp_path, f"f{index}.yaml", f"# \ndefaults: ./f{(index + 1) % length}.yaml\n")
    with pytest.raises(InputError) as caught:
        load_untyped(write(tmp_path, "mine.yaml", "defaults: f0.yaml\n"))
    files = [tmp_path / f"f{index % length}.yaml" for index in range(length + 1)]
    assert caught.value.message == f"defaults: a cycle: {' → '.join(map(str, files))}"
    assert (caught.value.path, caught.value.line) == (str(files[-2]), 2)


def test_a_missing_base_is_named_where_it_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "x: 1\n")
    path = write(tmp_path, "mine.yaml", "x: 2\ndefaults:\n  - bsae.yaml\n")
    with pytest.raises(InputError) as caught:
        load_untyped(path)
    assert caught.value.message == (
        f"defaults: there is no file {tmp_path / 'bsae.yaml'} (did you mean 'base.yaml'?)"
    )
    assert (caught.value.path, caught.value.line) == (str(path), 2)


def test_a_chain_has_an_end(tmp_path: Path) -> None:
    for index in range(300):
        write(tmp_path, f"f{index}.yaml", f"defaults: f{index + 1}.yaml\n")
    write(tmp_path, "f300.yaml", "x: 1\n")
    with pytest.raises(InputError, match="a chain of more than 100 files"):
        load_untyped(tmp_path / "f0.yaml")
    assert load_untyped(tmp_path / "f250.yaml").values == {"x": 1}


@pytest.mark.parametrize("text", ["defaults: {a: b}\n", "defaults: [1]\n", "defaults: ''\n"])
def test_defaults_of_another_shape(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="wants a file or a list of files"):
        load_untyped(write(tmp_path, "mine.yaml", text))


def test_a_changed_base_is_read_again(tmp_path: Path) -> None:
    top = write(tmp_path, "top.yaml", "x: 1\n")
    write(tmp_path, "base.yaml", "defaults: top.yaml\n")
    path = write(tmp_path, "mine.yaml", "defaults: base.yaml\n")
    assert load_untyped(path).values == {"x": 1}
    top.write_text("x: 2\n", encoding="utf-8")
    os.utime(top, ns=(1, 1))
    assert load_untyped(path).values == {"x": 2}


def test_a_section_that_overrides_takes_the_place_of_the_inherited_one(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "x: {p: 1, deep: {q: 1}}\n")
    path = write(tmp_path, "b.yaml", "defaults: a\nx: {_override_: true, r: 2, deep: {s: 3}}\n")
    assert load_untyped(path).values == {"x": {"r": 2, "deep": {"s": 3}}}
