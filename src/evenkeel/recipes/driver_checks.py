"""The checks by which a driver judges its run, read from its text without running it."""

from __future__ import annotations

from pathlib import Path

from evenkeel.errors import InputError
from evenkeel.recipes import config_block
from evenkeel.recipes.lint.driver_text import commands_of


def read(driver: Path) -> list[str]:
    """The arguments of the driver's ``judge`` calls, with variables of its CONFIG block filled in.

    Raises:
        InputError: the driver cannot be read, or a check depends on what only running it tells.
    """
    block = config_block.read(driver)
    known = {name: str(value) for name, value in block.variables.items()}
    checks = []
    for command in commands_of(driver.read_text(encoding="utf-8"), known):
        if command.words[0].text != "judge":
            continue
        for word in command.words[1:]:
            if not word.known:
                raise InputError(
                    f"the check {word.source} depends on what only running the driver tells",
                    path=driver,
                    line=word.line,
                    fix="use variables of the CONFIG block only, or pass --check",
                )
            checks.append(word.text)
    return checks
