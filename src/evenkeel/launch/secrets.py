"""Which environment variables are secrets, and keeping their values out of everything written.

A secret goes to a job through the environment, by name. Its value never becomes part of a
request, a script, a snapshot, a record, a log or a command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evenkeel.errors import InputError

SECRET_WORDS = ("TOKEN", "KEY", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL")
# hold one of the words above and are no secrets; a job without them behaves differently
NOT_SECRET = frozenset({"TOKENIZERS_PARALLELISM", "EVENKEEL_SECRETS"})
# a shorter value would be "found" in harmless text
_LEAST_TELLING_LENGTH = 6


def is_secret(name: str, also: Iterable[str] = ()) -> bool:
    """Whether the variable ``name`` holds a secret; ``also`` are further names that do."""
    upper = name.upper()
    if upper in {word.upper() for word in also}:
        return True
    return upper not in NOT_SECRET and any(word in upper for word in SECRET_WORDS)


def secrets_in(environment: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """The secret variables of ``environment`` that have a value."""
    also = tuple(also)
    return {name: value for name, value in environment.items() if value and is_secret(name, also)}


def split_secrets(
    variables: Mapping[str, str], known: Mapping[str, str], also: Iterable[str] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """``variables`` as (what may be written, secrets).

    A variable of a harmless name whose value holds the value of a secret of ``known`` (say a
    URL with a token in it) is a secret too.
    """
    also = tuple(also)
    public: dict[str, str] = {}
    secret: dict[str, str] = {}
    for name, value in variables.items():
        hidden = is_secret(name, also)
        (secret if hidden else public)[name] = value
    for name in [name for name in public if leaked_name(public[name], {**known, **secret})]:
        secret[name] = public.pop(name)
    return public, secret


def leaked_name(text: str, secrets: Mapping[str, str]) -> str | None:
    """The name of the first secret whose value stands in ``text``, if any does."""
    for name, value in secrets.items():
        # a path is where a secret lies (SSH_KEY_FILE), and stands in harmless text too
        if len(value) >= _LEAST_TELLING_LENGTH and value[0] not in "/.~" and value in text:
            return name
    return None


def refuse_leaks(what: str, texts: Iterable[str], secrets: Mapping[str, str]) -> None:
    """Raises InputError when one of ``texts``, which are written down, holds a secret's value."""
    for number, text in enumerate(texts, 1):
        name = leaked_name(text, secrets)
        if name is not None:
            raise InputError(
                f"{what} {number} holds the value of {name}, and would be written to the job"
                " script and shown by ps",
                fix=f"leave it out and let the code read {name} from its environment,"
                " where it is passed on",
            )


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """``text`` with the value of each secret replaced by ``***``; longest values first."""
    for value in sorted(secrets.values(), key=len, reverse=True):
        if len(value) >= _LEAST_TELLING_LENGTH:
            text = text.replace(value, "***")
    return text
