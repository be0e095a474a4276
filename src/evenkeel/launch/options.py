"""One launch's options from its flags, its environment and a profile, in this order of weight.

The variables are those that existing launch scripts use (``CONTAINER``, ``ACCOUNT``,
``EXTRA_ENV``, …); each has a flag of the same meaning, and both lead to the same request.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evenkeel.errors import InputError, MachineError, did_you_mean
from evenkeel.launch.request import DryRun, ExecutorKind, LaunchOptions
from evenkeel.launch.secrets import is_secret, refuse_leaks, secrets_in, split_secrets

if TYPE_CHECKING:
    from evenkeel.launch.profile import Profile

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Flags:
    """The flags of the command line as typed; None or empty where one was not given."""

    dry_run: bool = False
    prepare: bool = False
    watch: bool = False
    include_dirty: bool = False
    executor: str | None = None
    account: str | None = None
    partition: str | None = None
    container: str | None = None
    mounts: Sequence[str] = ()
    env: Sequence[str] = ()
    script_args: Sequence[str] = ()
    hf_home: str | None = None
    hf_datasets_cache: str | None = None
    exclude_gres: bool = False
    segment_size: int | None = None
    job_suffix: str | None = None
    release: bool = False
    exclude_nodes: Sequence[str] = ()
    secrets: Sequence[str] = ()


@dataclass(frozen=True)
class Merged:
    """What flags, environment and profile say together.

    ``secret_values`` belongs to the process that launches; it is no part of a request.
    """

    options: LaunchOptions
    secret_values: Mapping[str, str]
    dry_run: DryRun
    watch: bool
    include_dirty: bool

    def __repr__(self) -> str:
        return f"Merged({self.options!r}, secrets: {', '.join(self.secret_values) or 'none'})"


def dry_run_of(flags: Flags, environment: Mapping[str, str]) -> DryRun:
    """How far to go: ``--prepare``, ``--dry-run``, else the variable ``DRYRUN``.

    Raises:
        InputError: ``DRYRUN`` is none of 0, 1, 2.
    """
    if flags.prepare:
        return DryRun.PREPARE
    if flags.dry_run:
        return DryRun.ESTIMATE
    given = environment.get("DRYRUN", "").strip().lower()
    if given == "2":
        return DryRun.PREPARE
    return DryRun.ESTIMATE if _truth("DRYRUN", given, valid="0, 1 or 2") else DryRun.OFF


def merge(
    flags: Flags,
    environment: Mapping[str, str],
    profile: Profile | None = None,
    needs_sbatch: bool = True,
) -> Merged:
    """The options of a launch; a flag outweighs a variable, and a variable the profile.

    Args:
        flags: of the command line.
        environment: usually ``os.environ``.
        profile: of env.toml.
        needs_sbatch: jobs will be submitted, so Slurm without an ``sbatch`` is an error.

    Raises:
        InputError: a value that does not parse; an argument that holds a secret.
        MachineError: Slurm is wanted and ``sbatch`` is not on the PATH.
    """
    from_profile = _profile_values(profile)

    def choose(flag: str | None, variable: str, key: str = "") -> str | None:
        return flag or environment.get(variable) or from_profile.get(key) or None

    also = (
        *flags.secrets,
        *environment.get("EVENKEEL_SECRETS", "").replace(",", " ").split(),
        *(profile.secret_names if profile else ()),
    )
    account = choose(flags.account, "ACCOUNT", "account")
    partition = choose(flags.partition, "PARTITION", "partition")
    public, secrets = _variables(flags, environment, profile, also)
    script_args = (
        *_words("EXTRA_SCRIPT_ARGS", environment.get("EXTRA_SCRIPT_ARGS", "")),
        *flags.script_args,
    )
    refuse_leaks("script argument", script_args, secrets)
    # a snapshot is shared and read-only: no run shall write compiled files beside the code
    public.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    is_release = flags.release or _flag(environment, "IS_RELEASE")
    if is_release:
        public["IS_RELEASE"] = "1"
    options = LaunchOptions(
        executor=_executor(
            choose(flags.executor, "EVENKEEL_EXECUTOR", "executor"),
            account,
            partition,
            needs_sbatch,
        ),
        account=account,
        partition=partition,
        container=choose(flags.container, "CONTAINER", "container"),
        mounts=_mounts(flags, environment, profile),
        environment=tuple(sorted(public.items())),
        secret_names=tuple(sorted(secrets)),
        script_args=script_args,
        exclude_gres=(
            flags.exclude_gres
            or _flag(environment, "EXCLUDE_GRES")
            or bool(profile and profile.exclude_gres)
        ),
        segment_size=_segment_size(flags, environment, profile),
        job_suffix=choose(flags.job_suffix, "SLURM_JOB_SUFFIX") or "",
        sbatch_options=profile.sbatch_options if profile else (),
        exclude_nodes=(*flags.exclude_nodes, *(profile.exclude_nodes if profile else ())),
        is_release=is_release,
    )
    return Merged(
        options=options,
        secret_values=secrets,
        dry_run=dry_run_of(flags, environment),
        watch=flags.watch or _flag(environment, "WATCH"),
        include_dirty=flags.include_dirty or _flag(environment, "INCLUDE_DIRTY"),
    )


def snapshots_dir(root: Path, flag: str | None, environment: Mapping[str, str]) -> Path:
    """``code_snapshots`` of the repository, or what the flag or CODE_SNAPSHOT_DIRNAME says."""
    return root / (flag or environment.get("CODE_SNAPSHOT_DIRNAME") or "code_snapshots")


def _profile_values(profile: Profile | None) -> dict[str, str | None]:
    if profile is None:
        return {}
    return {
        "executor": profile.executor and profile.executor.value,
        "account": profile.account,
        "partition": profile.partition,
        "container": profile.container,
    }


def _variables(
    flags: Flags, environment: Mapping[str, str], profile: Profile | None, also: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """(public variables of the job, secret ones), later sources over earlier ones."""
    variables: dict[str, str] = dict(profile.env) if profile else {}
    for name, flag in (
        ("HF_HOME", flags.hf_home),
        ("HF_DATASETS_CACHE", flags.hf_datasets_cache),
    ):
        if value := flag or environment.get(name):
            variables[name] = value
    words = _words("EXTRA_ENV", environment.get("EXTRA_ENV", ""))
    for source, items in (("EXTRA_ENV", words), ("--env", flags.env)):
        for number, item in enumerate(items, 1):
            name, value = _assignment(source, number, item, environment)
            variables[name] = value
    known = secrets_in(environment, also)
    # EXTRA_ENV itself stands in the environment and may hold secrets: its parts are passed on
    known.pop("EXTRA_ENV", None)
    public, secret = split_secrets(variables, known, also)
    return public, {**known, **secret}


def _assignment(
    source: str, number: int, item: str, environment: Mapping[str, str]
) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals and source == "--env" and name in environment:
        return name, environment[name]
    if not equals or not _NAME.fullmatch(name):
        # the text may be part of a secret with a space in it: it is not shown
        shown = f" ({name!r})" if equals and not is_secret(name) and len(name) < 40 else ""
        raise InputError(
            f"word {number} of {source}{shown} is not NAME=VALUE",
            fix="quote a value with spaces as a shell would: EXTRA_ENV=\"A=1 B='two words'\"",
        )
    return name, value


def _words(variable: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"{variable} does not parse as shell words: {str(error).lower()}",
            fix="close the quote, or put a backslash before one that is meant as it stands",
        ) from None


def _mounts(
    flags: Flags, environment: Mapping[str, str], profile: Profile | None
) -> tuple[str, ...]:
    mounts = tuple(flags.mounts) or tuple(
        mount.strip() for mount in environment.get("MOUNTS", "").split(",") if mount.strip()
    )
    mounts = mounts or (profile.mounts if profile else ())
    for mount in mounts:
        if ":" not in mount or "," in mount:
            raise InputError(
                f"mount {mount!r} is not SOURCE:DESTINATION[:FLAGS]",
                fix="separate mounts of MOUNTS by commas, or repeat --mount",
            )
    return mounts


def _segment_size(
    flags: Flags, environment: Mapping[str, str], profile: Profile | None
) -> int | None:
    if flags.segment_size is not None:
        size = flags.segment_size
    elif text := environment.get("SEGMENT_SIZE", "").strip():
        if not text.isascii() or not text.isdecimal():
            raise InputError(f"SEGMENT_SIZE is {text!r}, not a whole number of nodes")
        size = int(text)
    else:
        return profile.segment_size if profile else None
    if size < 1:
        raise InputError(f"the segment size is {size}, and must be at least 1")
    return size


def _flag(environment: Mapping[str, str], variable: str) -> bool:
    return _truth(variable, environment.get(variable, "").strip().lower(), valid="0 or 1")


def _truth(variable: str, text: str, valid: str) -> bool:
    if text in _YES:
        return True
    if text in _NO:
        return False
    raise InputError(f"{variable} is {text!r}", fix=f"set it to {valid}, or leave it out")


def _executor(
    named: str | None, account: str | None, partition: str | None, needs_sbatch: bool
) -> ExecutorKind:
    kinds = {kind.value: kind for kind in ExecutorKind}
    if named is not None and named not in kinds:
        raise InputError(
            f"unknown executor {named!r}{did_you_mean(named, kinds)}",
            fix=f"one of: {', '.join(kinds)}",
        )
    if named == ExecutorKind.LOCAL.value:
        return ExecutorKind.LOCAL
    import shutil  # here: it loads three compression libraries, which an estimate does without

    if shutil.which("sbatch"):
        return ExecutorKind.SLURM
    if named is None and not account and not partition:
        return ExecutorKind.LOCAL
    if needs_sbatch:
        wanted = "the executor is slurm" if named else "an account or a partition is named"
        raise MachineError(
            f"{wanted}, but there is no sbatch on the PATH",
            fix="launch from a login node of the cluster, or run here with --executor local",
        )
    return ExecutorKind.SLURM
