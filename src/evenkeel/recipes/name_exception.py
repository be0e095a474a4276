"""The declaration that makes an unusual name legal, in the body of its driver.

# evenkeel: name-exception: the name says the context length; hardware: 1n8g
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from evenkeel.errors import InputError

SYNTAX = "# evenkeel: name-exception: <reason>; hardware: <nodes>n<gpus>g"

_STARTS = re.compile(r"^[ \t]*#[ \t]*evenkeel:[ \t]*name-exception\b[ \t]*:?(.*)$", re.MULTILINE)
_BODY = re.compile(r"(.*\S)[ \t]*;[ \t]*hardware:[ \t]*([1-9][0-9]*)n([1-9][0-9]*)g[ \t\r]*")


@dataclass(frozen=True, slots=True)
class NameException:
    """Why a driver's name states no allocation or no strategy, and what it is meant to run on."""

    reason: str
    num_nodes: int
    gpus_per_node: int
    line: int


def find(driver_text: str, path: Path | str | None = None) -> NameException | None:
    """The declaration in a driver's text; None where there is none.

    Raises:
        InputError: a declaration without a reason or without the hardware, or a second one.
    """
    found = list(_STARTS.finditer(driver_text)) if "name-exception" in driver_text else []
    if not found:
        return None
    line = driver_text.count("\n", 0, found[-1].start()) + 1
    body = _BODY.fullmatch(found[-1][1].strip())
    if body is None or len(found) > 1:
        raise InputError(
            "a second name-exception"
            if len(found) > 1
            else "a name-exception that says too little",
            path=path,
            line=line,
            fix=f"write one line: {SYNTAX}",
        )
    return NameException(body[1], int(body[2]), int(body[3]), line)
