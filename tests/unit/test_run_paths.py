"""Where the files of a repository lie: which scripts are drivers, however deep their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.launch import drivers
from evenkeel.run_paths import SUITES, Repository, RunPaths

FLAT, DEEP = "sft-a-1n8g-fsdp2tp1", "grpo-b-2n8g-fsdp2tp1"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Two drivers, results beside one that hold a script, and a script that is no driver."""
    for path in (
        f"llm/{FLAT}.sh",
        f"llm/performance/{DEEP}.sh",
        f"llm/{FLAT}/code/tests/test_suites/llm/grpo-left-behind-1n8g-fsdp2tp1.sh",
        "run_all.sh",
    ):
        file = tmp_path / SUITES / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return Repository(tmp_path)


def test_runs_beside_a_run_are_told_from_other_recipes(tmp_path: Path) -> None:
    own = RunPaths(tmp_path / FLAT)
    beside = ["confirm2", "own-seed", "seed1001", "twin12"]
    for name in (FLAT, f"{FLAT}.v2", f"{FLAT}.v2.confirm1", f"{FLAT}.baseline"):
        (tmp_path / name).mkdir()
    for variant in beside:
        own.beside(variant).root.mkdir()
    assert own.all_beside() == [own.beside(variant) for variant in beside]
    assert all(run.is_beside for run in own.all_beside())
    assert own.confirming(2) == own.beside("confirm2")
    assert not any(run.is_beside for run in (own, own.beside("v2"), own.beside("seed7")))


def test_drivers_are_found_however_deep_and_results_hold_none(repository: Repository) -> None:
    llm = repository.suites_dir / "llm"
    assert repository.drivers() == [llm / "performance" / f"{DEEP}.sh", llm / f"{FLAT}.sh"]
    assert repository.find_driver(DEEP) == llm / "performance" / f"{DEEP}.sh"


@pytest.mark.parametrize("near", [f"{DEEP}s", "grpo-b-2n8g-fsdp2tp2"])
def test_an_unknown_driver_is_told_with_the_nearest(repository: Repository, near: str) -> None:
    with pytest.raises(InputError, match=f"no driver '{near}' .did you mean '{DEEP}'"):
        repository.find_driver(near)


def test_two_drivers_of_one_name_are_told(repository: Repository) -> None:
    other = repository.suites_dir / "vlm" / f"{FLAT}.sh"
    other.parent.mkdir()
    other.write_text("")
    with pytest.raises(InputError, match="2 drivers are called"):
        repository.find_driver(FLAT)
    (word,) = drivers.find([FLAT], repository.root)
    assert word.path == FLAT  # left to whoever reads it: there is no such file


def test_a_command_line_reaches_drivers_by_name_however_deep(repository: Repository) -> None:
    words = [DEEP, f"{FLAT}.sh", f"llm/{FLAT}.sh", "sft-[*]"]
    paths = [Path(found.path) for found in drivers.find(words, repository.root)]
    flat = repository.suites_dir / "llm" / f"{FLAT}.sh"
    assert paths == [repository.find_driver(DEEP), flat, flat, Path("sft-[*]")]
    assert [found.word for found in drivers.all_below(repository.root)] == [
        f"{SUITES}/llm/performance/{DEEP}.sh",
        f"{SUITES}/llm/{FLAT}.sh",
    ]
