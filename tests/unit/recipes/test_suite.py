"""Listings: entries in both path styles, declarations, parked drivers, and edits of the text."""

from __future__ import annotations

import datetime
from fractions import Fraction
from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes import suite
from evenkeel.recipes.suite import Declared, Parked
from evenkeel.run_paths import Repository

NIGHTLY = """\
# What is trained every night.
#: device: cuda
#: gpus_per_node: 4,8
#: max_minutes: 240
#: budget_gpu_hours_per_night: 4000
#: budget_gpu_hours_per_week: 12500.5

##### SFT #####
tests/test_suites/llm/a.v2.sh
  llm/b.sh   # heavy
"""


def test_entries_and_declarations() -> None:
    listing = suite.parse(NIGHTLY, Path("nightly.txt"))
    assert listing.name == "nightly"
    assert not listing.is_disabled
    assert [(entry.line, entry.name, entry.note) for entry in listing.entries] == [
        (9, "a.v2", ""),
        (10, "b", "heavy"),
    ]
    assert listing.declared == Declared(
        device="cuda",
        gpus_per_node=(4, 8),
        max_minutes=240,
        budget_gpu_hours_per_night=Fraction(4000),
        budget_gpu_hours_per_week=Fraction(25001, 2),
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("#: devce: cpu", "did you mean 'device'?"),
        ("#: device: tpu", "'tpu' is no value"),
        ("#: gpus_per_node: 0", "'0' is no value"),
        ("#: max_minutes: soon", "'soon' is no value"),
        ("#: budget_gpu_hours_per_night: 1/0", "'1/0' is no value"),
    ],
)
def test_a_wrong_declaration_is_refused(line: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        suite.parse(f"# x\n{line}\n", Path("nightly.txt"))
    assert message in caught.value.message
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("text", "parked"),
    [
        (
            "llm/x.sh  # too slow; owner: @ann; since: 2026-11-20",
            Parked("too slow", "@ann", datetime.date(2026, 11, 20)),
        ),
        (
            "llm/x.sh  # reason: too slow; since: 2026-11-20; owner: ann b",
            Parked("too slow", "ann b", datetime.date(2026, 11, 20)),
        ),
        (
            "# flaky; owner: @bo; since: 2026-01-02\nllm/x.sh",
            Parked("flaky", "@bo", datetime.date(2026, 1, 2)),
        ),
        ("llm/x.sh  # owner: @ann; since: 2026-13-45", Parked(None, "@ann", None)),
        ("# a heading\n\nllm/x.sh", Parked(None, None, None)),
    ],
)
def test_parked_drivers_say_why_who_and_since_when(text: str, parked: Parked) -> None:
    listing = suite.parse(text, Path("disabled.txt"))
    assert listing.is_disabled
    assert listing.entries[0].parked == parked


def test_what_a_note_lacks_is_named() -> None:
    entry = suite.parse("llm/x.sh # broken", Path("disabled.txt")).entries[0]
    assert entry.parked.missing == ["owner", "since"]


def tree(root: Path) -> Repository:
    (root / "tests/test_suites/llm").mkdir(parents=True)
    (root / "tests/test_suites/llm/x.sh").write_text("true\n", encoding="utf-8")
    for name in ("nightly", "disabled", "adhoc"):
        (root / f"tests/test_suites/{name}.txt").write_text("llm/x.sh\n", encoding="utf-8")
    return Repository(root)


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("llm/x.sh", "tests/test_suites/llm/x.sh"),
        ("tests/test_suites/llm/x.sh", "tests/test_suites/llm/x.sh"),
        ("./llm/../llm/x.sh", "tests/test_suites/llm/x.sh"),
        ("llm/y.sh", None),
        ("/etc/passwd", None),
        ("../../../../../../etc/passwd", None),
    ],
)
def test_entries_resolve_in_either_style_within_the_tree(
    tmp_path: Path, text: str, driver: str | None
) -> None:
    entry = suite.parse(text, Path("nightly.txt")).entries[0]
    assert suite.resolve(entry, tree(tmp_path)) == driver


def test_listings_stand_by_name_with_the_disabled_last(tmp_path: Path) -> None:
    root = tree(tmp_path).root
    assert [listing.name for listing in suite.listings(root)] == ["adhoc", "nightly", "disabled"]
    assert suite.find(root, "nightly.txt").name == "nightly"
    with pytest.raises(InputError, match="did you mean 'nightly'"):
        suite.find(root, "nigthly")


def test_edits_keep_every_other_character() -> None:
    assert suite.renamed(NIGHTLY, "b", "c.v2") == NIGHTLY.replace("llm/b.sh ", "llm/c.v2.sh ")
    assert suite.renamed(NIGHTLY, "a", "z") == NIGHTLY
    assert suite.without(NIGHTLY, ["a.v2"]) == NIGHTLY.replace(
        "tests/test_suites/llm/a.v2.sh\n", ""
    )


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("", "tests/test_suites/llm/n.sh\n"),
        ("llm/a.sh", "llm/a.sh\nllm/n.sh\n"),
        (NIGHTLY, NIGHTLY + "tests/test_suites/llm/n.sh\n"),
    ],
)
def test_a_new_entry_takes_the_path_style_of_the_listing(text: str, added: str) -> None:
    assert suite.with_entry(text, "tests/test_suites/llm/n.sh") == added
