from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.recipes.config import load_untyped
from evenkeel.recipes.lint import fixes, minimal
from evenkeel.recipes.lint.recipe_file import RecipeFiles
from evenkeel.recipes.lint.registry import Edit, EditKind, Finding

RECIPE = "recipe.yaml"


def repaired(root: Path, base: str, recipe: str) -> str:
    (root / "base.yaml").write_text(base, encoding="utf-8")
    (root / RECIPE).write_text(recipe, encoding="utf-8")
    file = RecipeFiles(root).get(RECIPE)
    assert file.problem is None
    found = list(minimal.repeated(file.own, file.inherited, RECIPE))
    lines = minimal.removable_lines(recipe, [key for key, _, _ in found])
    edits = [Edit(EditKind.DELETE, one.first, one.last, one.text) for one in lines.values()]
    fixes.apply(root, [Finding("EK405", RECIPE, edit.first, "", "", edit=edit) for edit in edits])
    return (root / RECIPE).read_text(encoding="utf-8")


BASE = "a: 1\nb:\n  c: 2\n  d: [1, 2]\n  e: {f: true, g: text}\nh: null\n"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("a: 1\n", ""),
        ("a: 1  # said aloud\nh: 5\n", "h: 5\n"),
        ("a: 1.0\n", "a: 1.0\n"),
        ("a: true\n", "a: true\n"),
        ("a: '1'\n", "a: '1'\n"),
        ("h:\n", ""),
        ("b:\n  c: 2\n  d: [1]\n", "b:\n  d: [1]\n"),
        ("b:\n  c: 2\n  # why\n  d:\n    - 1\n    - 2\n", "  # why\n"),
        ("b:\n  d: [1,\n      2]\n  x: 1\n", "b:\n  x: 1\n"),
        ("b: {c: 2, x: 1}\n", "b: {c: 2, x: 1}\n"),
        ("b: {c: 2}\na: 2\n", "a: 2\n"),
        ("b:\n  e:\n    f: true\n    g: text\n  c: 3\n", "b:\n  c: 3\n"),
        ("b:\n  _override_: true\n  c: 2\n", "b:\n  _override_: true\n  c: 2\n"),
        ("x: &n 1\na: 1\n", "x: &n 1\na: 1\n"),
        ("b: {}\n", "b: {}\n"),
        ("? a\n: 1\n", "? a\n: 1\n"),
    ],
)
def test_only_whole_lines_that_repeat_go(tmp_path: Path, own: str, expected: str) -> None:
    head = "defaults: base.yaml\n\n"
    assert repaired(tmp_path, BASE, head + own) == head + expected


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(0, 3), st.sampled_from(["x", "y z", "a: b", "#", "0.5"])
)
keys = st.sampled_from(["a", "b", "c", "d e"])
sections: st.SearchStrategy[Any] = st.recursive(
    st.one_of(scalars, st.lists(scalars, max_size=3)),
    lambda inner: st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
trees = st.dictionaries(keys, sections, max_size=4)


@settings(max_examples=80, deadline=None)
@given(trees, trees, st.sampled_from([True, False, None]), st.integers(2, 4))
def test_a_repair_changes_nothing_that_is_resolved(
    base: dict[str, Any], own: dict[str, Any], flow: bool | None, indent: int
) -> None:
    recipe = yaml.safe_dump(own, default_flow_style=flow, indent=indent) if own else ""
    text = f"defaults: base.yaml\n{recipe}" if not recipe.startswith("{") else recipe
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
        (root / RECIPE).write_text(text, encoding="utf-8")
        before = load_untyped(root / RECIPE).values
        once = repaired(root, yaml.safe_dump(base), text)
        (root / "again.yaml").write_text(once, encoding="utf-8")
        assert load_untyped(root / "again.yaml").values == before
        assert repaired(root, yaml.safe_dump(base), once) == once
