from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.errors import EvenkeelError, InputError, MachineError
from evenkeel.launch.options import Flags, Merged, dry_run_of, merge, snapshots_dir
from evenkeel.launch.profile import load
from evenkeel.launch.request import DryRun, ExecutorKind, options_to_json

WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))


def merged(*, flags: Flags | None = None, **environment: str) -> Merged:
    return merge(flags or Flags(executor="local"), environment)


def test_variables_and_flags_say_the_same() -> None:
    by_variables = merged(
        CONTAINER="img",
        ACCOUNT="a",
        PARTITION="p",
        MOUNTS="/a:/b,/c d:/e",
        EXTRA_ENV="X=1 Y='2 3'",
        EXTRA_SCRIPT_ARGS="a.b='c d' --flag",
        HF_HOME="/hf",
        HF_DATASETS_CACHE="/cache",
        EXCLUDE_GRES="1",
        SEGMENT_SIZE="4",
        SLURM_JOB_SUFFIX="-x",
        IS_RELEASE="true",
        WATCH="1",
    )
    by_flags = merged(
        flags=Flags(
            executor="local",
            container="img",
            account="a",
            partition="p",
            mounts=["/a:/b", "/c d:/e"],
            env=["X=1", "Y=2 3"],
            script_args=["a.b=c d", "--flag"],
            hf_home="/hf",
            hf_datasets_cache="/cache",
            exclude_gres=True,
            segment_size=4,
            job_suffix="-x",
            release=True,
            watch=True,
        )
    )
    assert by_flags == by_variables
    assert by_flags.options.variables == {
        "HF_DATASETS_CACHE": "/cache",
        "HF_HOME": "/hf",
        "IS_RELEASE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "X": "1",
        "Y": "2 3",
    }


def test_a_flag_outweighs_a_variable_and_that_a_profile(tmp_path: Path) -> None:
    (tmp_path / "env.toml").write_text(
        '[c]\nexecutor = "local"\naccount = "p"\npartition = "p"\ncontainer = "p"\n'
    )
    profile = load(tmp_path / "env.toml", "c")
    options = merge(Flags(account="f"), {"ACCOUNT": "v", "PARTITION": "v"}, profile).options
    assert (options.account, options.partition, options.container) == ("f", "v", "p")
    assert options.executor is ExecutorKind.LOCAL


@given(st.lists(WORDS, max_size=5), st.dictionaries(st.sampled_from(["A", "B_1"]), WORDS))
def test_words_arrive_as_they_were(arguments: list[str], variables: dict[str, str]) -> None:
    found = merged(
        EXTRA_SCRIPT_ARGS=shlex.join(arguments),
        EXTRA_ENV=" ".join(shlex.quote(f"{name}={value}") for name, value in variables.items()),
    ).options
    assert list(found.script_args) == arguments
    assert {name: found.variables[name] for name in variables} == variables


@given(st.text(), st.text(), st.text())
def test_no_text_makes_it_crash(extra_env: str, arguments: str, mounts: str) -> None:
    try:
        merged(EXTRA_ENV=extra_env, EXTRA_SCRIPT_ARGS=arguments, MOUNTS=mounts)
    except EvenkeelError as error:
        assert str(error)


def test_secrets_are_no_part_of_what_is_written() -> None:
    found = merged(
        HF_TOKEN="hf-value-1",
        EXTRA_ENV="WANDB_API_KEY=wandb-value URL=https://hf-value-1@host MY_LOGIN=mine OPEN=1",
        EVENKEEL_SECRETS="MY_LOGIN",
    )
    assert found.options.secret_names == ("HF_TOKEN", "MY_LOGIN", "URL", "WANDB_API_KEY")
    assert found.secret_values["WANDB_API_KEY"] == "wandb-value"
    for text in (json.dumps(options_to_json(found.options)), repr(found)):
        assert "value" not in text
        assert "mine" not in text


def test_a_secret_among_the_arguments_is_refused() -> None:
    with pytest.raises(InputError, match="HF_TOKEN"):
        merged(HF_TOKEN="hf-value-1", EXTRA_SCRIPT_ARGS="logger.key=hf-value-1")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EXTRA_ENV", "A=1 secret-part"),
        ("EXTRA_ENV", "A='1"),
        ("EXTRA_ENV", "1A=1"),
        ("EXTRA_SCRIPT_ARGS", "it's"),
        ("MOUNTS", "/only-one"),
        ("SEGMENT_SIZE", "four"),
        ("SEGMENT_SIZE", "0"),
        ("WATCH", "maybe"),
        ("DRYRUN", "3"),
        ("EVENKEEL_EXECUTOR", "slrum"),
    ],
)
def test_bad_values_are_named_with_their_variable(variable: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        merge(Flags(), {variable: value})
    assert "secret-part" not in str(caught.value)
    words = variable.replace("EVENKEEL_", "").lower().replace("_", " ").split()
    assert any(word.rstrip("s") in str(caught.value).lower() for word in words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", DryRun.OFF), ("0", DryRun.OFF), ("1", DryRun.ESTIMATE), ("2", DryRun.PREPARE)],
)
def test_dryrun(text: str, expected: DryRun) -> None:
    assert dry_run_of(Flags(), {"DRYRUN": text}) is expected
    assert dry_run_of(Flags(prepare=True), {"DRYRUN": text}) is DryRun.PREPARE


def test_without_slurm_it_runs_here_unless_slurm_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert merge(Flags(), {}).options.executor is ExecutorKind.LOCAL
    for wanted in ({"ACCOUNT": "a"}, {"PARTITION": "p"}, {"EVENKEEL_EXECUTOR": "slurm"}):
        with pytest.raises(MachineError, match="sbatch"):
            merge(Flags(), wanted)
        prepared = merge(Flags(prepare=True), wanted, needs_sbatch=False)
        assert prepared.options.executor is ExecutorKind.SLURM


def test_where_snapshots_go() -> None:
    root = Path("/repo")
    assert snapshots_dir(root, None, {}) == root / "code_snapshots"
    assert snapshots_dir(root, None, {"CODE_SNAPSHOT_DIRNAME": "other"}) == root / "other"
    assert snapshots_dir(root, "/abs", {"CODE_SNAPSHOT_DIRNAME": "other"}) == Path("/abs")
