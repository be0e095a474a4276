"""Checks are read from drivers as the shell would pass them on."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes import driver_checks

HEAD = """\
# ===== BEGIN CONFIG =====
NUM_NODES=1
STEPS_PER_RUN=20
MAX_STEPS=40
NUM_RUNS=2
NUM_MINUTES=5
# ===== END CONFIG =====
train examples/run_sft.py "$@"
"""


def write(tmp_path: Path, text: str) -> Path:
    driver = tmp_path / "sft-x-1n8g-fsdp2tp1.sh"
    driver.write_text(HEAD + text)
    return driver


def test_quotes_continuations_and_config_variables_are_the_shells(tmp_path: Path) -> None:
    driver = write(
        tmp_path,
        "judge \\\n"
        "    'max(data[\"train/loss\"]) < 9' \\\n"
        '    "data[\\"validation/accuracy\\"][\\"$MAX_STEPS\\"] > 0.8"\n',
    )
    assert driver_checks.read(driver) == [
        'max(data["train/loss"]) < 9',
        'data["validation/accuracy"]["40"] > 0.8',
    ]


def test_a_driver_without_checks_has_none(tmp_path: Path) -> None:
    assert driver_checks.read(write(tmp_path, "judge\n")) == []


def test_a_check_that_must_be_run_to_be_known_is_refused(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    driver = write(tmp_path, f'judge "1 < $(touch {planted}; echo 2)"\n')
    with pytest.raises(InputError, match=r"fsdp2tp1\.sh:9: .*only running"):
        driver_checks.read(driver)
    assert not planted.exists()
