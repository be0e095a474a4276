"""Declared exceptions: what counts as a declaration, and what says too little."""

from __future__ import annotations

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes import name_exception
from evenkeel.recipes.name_exception import NameException


def test_a_declaration_gives_reason_and_hardware() -> None:
    text = "#!/bin/bash\n  # evenkeel: name-exception: says the context; really; hardware: 2n4g \n"
    assert name_exception.find(text) == NameException("says the context; really", 2, 4, 2)


def test_no_declaration() -> None:
    assert name_exception.find("# name-exception would be needed\necho 1\n") is None


@pytest.mark.parametrize(
    "line",
    [
        "# evenkeel: name-exception",
        "# evenkeel: name-exception: no hardware",
        "# evenkeel: name-exception: ; hardware: 1n8g",
        "# evenkeel: name-exception: why; hardware: 8 GPUs",
        "\n".join(f"# evenkeel: name-exception: {why}; hardware: 1n8g" for why in "ab"),
    ],
)
def test_a_declaration_that_says_too_little_is_refused(line: str) -> None:
    with pytest.raises(InputError) as caught:
        name_exception.find(f"#!/bin/bash\n{line}\n", "llm/x.sh")
    assert caught.value.line == 2 + line.count("\n")
    assert caught.value.fix == f"write one line: {name_exception.SYNTAX}"
