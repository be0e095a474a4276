"""A launch without Slurm, from the command to ``continue.sh``."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from evenkeel.cli.main import main
from evenkeel.errors import InputError
from evenkeel.launch import continuation
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.launch_record import LaunchState, read_record, write_state
from evenkeel.launch.launcher import interrupted, only_launcher, only_night, resumable

from .conftest import GitTree
from .test_snapshot import A, B, request, shown, taken
from .test_snapshot_care import LOCAL, NO_SLURM, dated
from .test_tools_launch import LAUNCH

BODY = """
out=${BASH_SOURCE[0]%.sh}
mkdir -p "$out"
printf '%s\\0' "$PWD" "$@" "$A" "${MY_TOKEN:-}" >> "$out/seen"
[ "$A" != fail ] || exit 5
"""


def launch(tree: GitTree, cwd: Path, *words: object, **variables: str) -> tuple[int, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "GIT_CONFIG_GLOBAL")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**kept, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_run_here_and_once_more_from_elsewhere(tree: GitTree, tmp_path: Path) -> None:
    path = tree.driver(A, steps=100, max_steps=100)
    path.write_text(path.read_text() + BODY)
    tree.commit()
    status, output = launch(
        tree,
        path.parent,
        LAUNCH,
        f"{A}.sh",
        "--executor",
        "local",
        EXTRA_ENV="A='it'\"'\"'s $HOME'",
        EXTRA_SCRIPT_ARGS="'two\nlines' 'x y'",
        MY_TOKEN="not to be written",
    )
    assert status == 0, output
    assert [line for line in output.splitlines() if not line.startswith("[")] == []
    submission = read_record(shown(tree, A).resolve().parent).submission(A)
    seen = submission.run_dir / "seen"
    values = ["two\nlines", "x y", "it's $HOME"]
    first = [str(submission.tree), *values, "not to be written"]
    assert seen.read_text().split("\0")[:-1] == first
    # moved to another place, and the code it was launched from is gone
    moved = tmp_path / "moved"
    shutil.copytree(tree.root / "code_snapshots", moved / "code_snapshots", symlinks=True)
    (tree.root / "code_snapshots").rename(tmp_path / "gone")
    status, output = launch(tree, Path("/"), moved / "code_snapshots" / A / "continue.sh")
    assert status == 0, output
    assert f"run 2 of {A}" in output
    assert "set at launch and not set now: MY_TOKEN" in output
    there = moved / "code_snapshots" / ".trees" / submission.tree.name
    again = [str(there), *values, ""]
    found = (there / submission.run_dir.relative_to(submission.tree) / "seen").read_text()
    assert found.split("\0")[:-1] == [*first, *again]
    assert "not to be written" not in output


def test_what_continuing_would_do(tree: GitTree, capsys: pytest.CaptureFixture[str]) -> None:
    record = taken(tree, A, options=LOCAL).record
    folder = record.submission(A).launch_dir
    assert main(["continue", str(folder), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"[INFO]: run 1 of {A}, launched {record.created}")
    assert lines[1].startswith("[INFO]: 4 GPUhrs to run ")
    assert "on this machine" in lines[-1]
    code = record.submission(A).tree / "src" / "code.py"
    code.chmod(0o644)
    code.write_text("something else\n")
    assert main(["continue", str(folder), "--dry-run"]) == 0
    assert "1 files of the snapshot were changed since" in capsys.readouterr().err


def test_continuing_refuses_what_runs_or_is_gone(tree: GitTree) -> None:
    record = taken(tree, A, options=LOCAL).record
    found, submission = continuation.find(record.submission(A).launch_dir)
    with only_launcher(record.folder), pytest.raises(InputError, match="pending or running"):
        continuation.next_run(found, submission, NO_SLURM)
    submission.driver_path.unlink()
    with pytest.raises(InputError, match="gone"):
        continuation.next_run(found, submission, Cluster())
    with pytest.raises(InputError, match="not the folder of a launched recipe"):
        continuation.find(tree.root)


def test_an_interrupted_launch_is_found_by_its_suite_or_its_recipes(tree: GitTree) -> None:
    nightly = request(tree, A, B, suite="nightly")
    by_name = request(tree, A)
    assert interrupted(nightly, (A, B)) is None
    record = taken(tree, A, B, suite="nightly").record
    assert interrupted(nightly, (A, B)) == record
    assert interrupted(by_name, (A,)) is None
    write_state(record.folder, LaunchState.SUBMITTED)
    assert interrupted(nightly, (A, B)) is None
    # its launcher died later: tonight's night is not launched twice, last week's is over
    assert resumable(nightly, (A, B)) == record
    dated(record, 1)
    assert resumable(nightly, (A, B)) is None


def test_a_suite_that_was_interrupted_is_not_launched_anew(
    tree: GitTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.write("tests/test_suites/nightly.txt", f"llm/{A}.sh\n")
    tree.commit()
    record = taken(tree, A, suite="nightly", options=LOCAL).record
    words = ["launch", "--suite", "nightly", "--root", str(tree.root), "--executor", "local"]
    assert main(words) == 2
    assert record.launch_id in capsys.readouterr().err
    with only_night(tree.root / "code_snapshots", "nightly"):
        assert main([*words, "--resume"]) == 3
    assert "a night of nightly is on" in capsys.readouterr().err


def test_broken_drivers_launch_nothing(tree: GitTree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.driver(B, minutes="soon")
    tree.commit()
    folder = tree.root / "tests/test_suites/llm"
    paths = [str(folder / f"{name}.sh") for name in (A, B)]
    assert main(["launch", "--executor", "local", *paths]) == 2
    assert "NUM_MINUTES" in capsys.readouterr().err
    assert not (tree.root / "code_snapshots").exists()
    assert main(["launch", "--executor", "local", paths[0], paths[0]]) == 2
    assert "named twice" in capsys.readouterr().err


def test_the_limits_of_a_profile_and_a_suite_hold(
    tree: GitTree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.write("env.toml", '[small]\nexecutor = "local"\ngpus_per_node = 4\n')
    tree.write("tests/test_suites/short.txt", f"#: max_minutes: 10\nllm/{A}.sh\n")
    tree.commit()
    root = ["--root", str(tree.root)]
    path = str(tree.root / f"tests/test_suites/llm/{A}.sh")
    assert main(["launch", "--batch", "small", path]) == 2
    assert "GPUS_PER_NODE is 8, and the profile allows 4" in capsys.readouterr().err
    assert main(["launch", *root, "--suite", "short", "--executor", "local"]) == 2
    assert "NUM_MINUTES is 30, and the suite allows 10" in capsys.readouterr().err
