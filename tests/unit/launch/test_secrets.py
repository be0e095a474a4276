from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.launch.secrets import (
    is_secret,
    redact,
    refuse_leaks,
    secrets_in,
    split_secrets,
)


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "WANDB_API_KEY", "aws_secret_access_key", "PGPASSWORD", "MYTOKEN", "DB_PASSWD"],
)
def test_names_that_say_secret(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["HOME", "TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "HF_HOME"])
def test_names_that_do_not(name: str) -> None:
    assert not is_secret(name)


def test_further_names_can_be_declared() -> None:
    assert not is_secret("MY_LOGIN")
    assert is_secret("MY_LOGIN", also=["my_login"])
    assert secrets_in({"MY_LOGIN": "x", "A_KEY": "", "B_KEY": "y"}, ["MY_LOGIN"]) == {
        "MY_LOGIN": "x",
        "B_KEY": "y",
    }


def test_a_value_that_holds_a_secret_is_one() -> None:
    public, secret = split_secrets(
        {"URL": "https://me:hunter22@host", "A": "1", "X_TOKEN": "t"}, {"PASSWORD": "hunter22"}
    )
    assert public == {"A": "1"}
    assert secret == {"URL": "https://me:hunter22@host", "X_TOKEN": "t"}


def test_an_argument_with_a_secret_is_refused_without_showing_it() -> None:
    with pytest.raises(InputError, match="WANDB_API_KEY") as caught:
        refuse_leaks("argument", ["a", "key=hunter22"], {"WANDB_API_KEY": "hunter22"})
    assert "hunter22" not in str(caught.value)


@given(st.text(), st.lists(st.text(min_size=6), max_size=3), st.text())
def test_nothing_of_a_secret_is_left(before: str, values: list[str], after: str) -> None:
    secrets = {f"S{i}": value for i, value in enumerate(values)}
    shown = redact(before + "".join(values) + after, secrets)
    for value in values:
        if not any(value in other for other in ("***", before, after)) and "*" not in value:
            assert value not in shown
