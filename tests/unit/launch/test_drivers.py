"""Which scripts a command line means, in suites whose folders are nested."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.launch.drivers import all_below, find

SUITES = "tests/test_suites"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("llm/sft-a.sh", "llm/moe/sft-b.sh", "llm/moe/large/sft-c.sh", "vlm/sft-c.sh"):
        path = tmp_path / SUITES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # results beside a driver, and a copy of the code among them, are no drivers
    left = tmp_path / SUITES / "llm" / "sft-a" / "code" / "other.sh"
    left.parent.mkdir(parents=True)
    left.touch()
    return tmp_path


def test_every_driver_is_found_however_deep(root: Path) -> None:
    found = all_below(root)
    assert [driver.word for driver in found] == [
        f"{SUITES}/llm/moe/large/sft-c.sh",
        f"{SUITES}/llm/moe/sft-b.sh",
        f"{SUITES}/llm/sft-a.sh",
        f"{SUITES}/vlm/sft-c.sh",
    ]
    assert [driver.path for driver in found] == [str(root / driver.word) for driver in found]
    with pytest.raises(InputError, match="no driver below"):
        all_below(root / "elsewhere")


def test_a_recipe_is_found_by_its_name_where_that_is_unique(root: Path) -> None:
    b, c, inside = find(["sft-b", "sft-c", "other"], root)
    assert b.path == str(root / SUITES / "llm/moe/sft-b.sh")
    assert (c.path, inside.path) == ("sft-c", "other")  # two of them, and none
