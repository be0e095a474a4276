from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.launch.profile import find_file, load
from evenkeel.launch.request import ExecutorKind

HANDBOOK = """
[wandb]
project = "nightly"
entity = "my-team"

[my-cluster]
executor = "slurm"
account = "my-account"
partition = "batch"
nodes = 2
ntasks_per_node = 8
gpus_per_node = 8
mounts = ["/lustre:/lustre"]

[my-cluster.env]
NCCL_DEBUG = "INFO"

[secrets]
names = ["MY_LOGIN"]
"""


def test_the_file_of_the_handbook(tmp_path: Path) -> None:
    path = tmp_path / "env.toml"
    path.write_text(HANDBOOK)
    profile = load(path, "my-cluster")
    assert profile.executor is ExecutorKind.SLURM
    assert (profile.account, profile.partition) == ("my-account", "batch")
    assert (profile.nodes, profile.ntasks_per_node, profile.gpus_per_node) == (2, 8, 8)
    assert profile.mounts == ("/lustre:/lustre",)
    assert profile.env == (
        ("WANDB_PROJECT", "nightly"),
        ("WANDB_ENTITY", "my-team"),
        ("NCCL_DEBUG", "INFO"),
    )
    assert profile.secret_names == ("MY_LOGIN",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\npartitoin = 'x'", "did you mean 'partition'"),
        ("[a]\nnodes = 'two'", "must be of type int"),
        ("[a]\nnodes = true", "must be of type int"),
        ("[a]\nnodes = 0", "at least 1"),
        ("[a]\nmounts = [1]", "strings only"),
        ("[a]\nexecutor = 'slrum'", "did you mean 'slurm'"),
        ("[b]\n", "no profile 'a'; there are: b"),
        ("[secrets]\n", "there are: none"),
        ("[a", "not TOML"),
        ("a = 1", "outside of a table"),
        ("[a]\n[secrets]\nnames = 1", "list of strings"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "env.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load(path, "a")
    assert caught.value.path == str(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "env.toml", "a")


def test_where_profiles_stand() -> None:
    assert find_file(Path("/repo"), {}) == Path("/repo/env.toml")
    assert find_file(Path("/repo"), {"EVENKEEL_PROFILES": "/etc/x"}) == Path("/etc/x")
