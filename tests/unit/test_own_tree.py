"""The linter finds nothing in our own recipes, drivers and listings."""

from __future__ import annotations

from pathlib import Path

from evenkeel.recipes.lint.engine import Selection, lint

ROOT = Path(__file__).parents[2]


def test_the_linter_has_nothing_to_say_about_our_own_tree() -> None:
    # what git calls released depends on the clone; stale entries on the day
    report = lint(ROOT, None, Selection(ignore=["EK107", "EK410"]), jobs=1)
    assert report.findings == ()
    assert report.num_drivers >= 40
    assert report.num_recipes >= 40
    assert report.num_suites >= 4
