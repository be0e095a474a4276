"""``env.toml``: named execution profiles, so that account and partition are typed once.

    [my-cluster]
    executor = "slurm"
    account = "my-account"
    partition = "batch"
    gpus_per_node = 8
    mounts = ["/data:/data"]

``--run my-cluster`` launches with them and watches, ``--batch my-cluster`` launches and returns.
The tables ``[wandb]`` and ``[secrets]`` are no profiles: the first gives WANDB_PROJECT and
WANDB_ENTITY, the second names further variables that hold secrets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evenkeel.errors import InputError, did_you_mean
from evenkeel.launch.request import ExecutorKind

FILE_NAME = "env.toml"
_NO_PROFILE = ("wandb", "secrets")


@dataclass(frozen=True)
class Profile:
    """One table of env.toml.

    ``nodes`` and ``gpus_per_node`` are what the cluster offers to one job: a driver that asks
    for more is refused before anything is submitted. ``ntasks_per_node`` is accepted so that
    existing files work; how many tasks a node runs is decided by GPUS_PER_NODE of the driver.
    """

    name: str
    executor: ExecutorKind | None = None
    account: str | None = None
    partition: str | None = None
    container: str | None = None
    mounts: tuple[str, ...] = ()
    nodes: int | None = None
    ntasks_per_node: int | None = None
    gpus_per_node: int | None = None
    segment_size: int | None = None
    exclude_gres: bool = False
    exclude_nodes: tuple[str, ...] = ()
    sbatch_options: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    secret_names: tuple[str, ...] = field(default=())


# key of the file → (field, type); several spellings that other launchers use mean one thing
_KEYS: dict[str, tuple[str, type]] = {
    "executor": ("executor", str),
    "account": ("account", str),
    "partition": ("partition", str),
    "container": ("container", str),
    "container_image": ("container", str),
    "mounts": ("mounts", list),
    "container_mounts": ("mounts", list),
    "nodes": ("nodes", int),
    "ntasks_per_node": ("ntasks_per_node", int),
    "gpus_per_node": ("gpus_per_node", int),
    "segment_size": ("segment_size", int),
    "exclude_gres": ("exclude_gres", bool),
    "exclude_nodes": ("exclude_nodes", list),
    "sbatch_options": ("sbatch_options", list),
    "env": ("env", dict),
}


def find_file(root: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Where the profiles stand: ``EVENKEEL_PROFILES``, else ``env.toml`` of the repository."""
    given = (os.environ if environment is None else environment).get("EVENKEEL_PROFILES")
    return Path(given) if given else root / FILE_NAME


def load(path: Path, name: str) -> Profile:
    """The profile ``name`` of the file at ``path``.

    Raises:
        InputError: no such file or profile, TOML that does not parse, an unknown key or a value
            of another type.
    """
    tables = _read(path, name)
    profiles = {key: table for key, table in tables.items() if key not in _NO_PROFILE}
    if name not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise InputError(
            f"no profile {name!r}{did_you_mean(name, profiles)}; there are: {known}",
            path=path,
            fix=f"add a table [{name}] with executor, account and partition",
        )
    fields = _fields(path, name, profiles[name])
    env = {**_wandb(tables.get("wandb", {})), **dict(fields.pop("env", ()))}
    return Profile(
        name=name,
        env=tuple(env.items()),
        secret_names=_secret_names(path, tables.get("secrets", {})),
        **fields,
    )


def _read(path: Path, wanted: str) -> dict[str, dict[str, Any]]:
    import tomllib  # here, because a dry run without a profile must not pay for it

    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"no such file of profiles, where profile {wanted!r} is asked for",
            path=path,
            fix=f"write it with a table [{wanted}], as docs/launch.md shows",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the profiles: {error}", path=path) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not TOML: {error}", path=path) from error
    loose = [key for key, table in value.items() if not isinstance(table, dict)]
    if loose:
        raise InputError(
            f"{loose[0]!r} stands outside of a table",
            path=path,
            fix="put it below the [name] of a profile",
        )
    return value


def _fields(path: Path, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _KEYS:
            raise InputError(
                f"unknown key {key!r} in [{name}]{did_you_mean(key, _KEYS)}",
                path=path,
                fix=f"keys are: {', '.join(sorted(_KEYS))}",
            )
        target, wanted = _KEYS[key]
        # bool is an int in Python, not in TOML
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise InputError(
                f"{key} in [{name}] is {value!r}, and must be of type {wanted.__name__}",
                path=path,
            )
        if isinstance(value, int) and wanted is int and value < 1:
            raise InputError(f"{key} in [{name}] is {value}, and must be at least 1", path=path)
        if wanted in (list, dict):
            value = _texts(path, name, key, value)
        fields[target] = _executor(path, name, value) if key == "executor" else value
    return fields


def _texts(path: Path, name: str, key: str, value: Any) -> tuple[Any, ...]:
    items = list(value.items()) if isinstance(value, dict) else list(value)
    texts = [item[1] if isinstance(item, tuple) else item for item in items]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{key} in [{name}] must hold strings only, not {value!r}", path=path)
    return tuple(items)


def _executor(path: Path, name: str, value: str) -> ExecutorKind:
    try:
        return ExecutorKind(value)
    except ValueError:
        kinds = [kind.value for kind in ExecutorKind]
        raise InputError(
            f"unknown executor {value!r} in [{name}]{did_you_mean(value, kinds)}",
            path=path,
            fix=f"one of: {', '.join(kinds)}",
        ) from None


def _wandb(table: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"WANDB_{key.upper()}": str(table[key]) for key in ("project", "entity") if key in table
    }


def _secret_names(path: Path, table: Mapping[str, Any]) -> tuple[str, ...]:
    names = table.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("names in [secrets] must be a list of strings", path=path)
    return tuple(names)
