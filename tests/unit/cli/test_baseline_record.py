"""``evenkeel baseline record``: what goes together, and what is refused before anything is made."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from evenkeel.cli import baseline, launch
from evenkeel.cli.command_parser import CommandParser
from evenkeel.cli.main import main

ROOT = Path(__file__).parents[3]
NAME = "sft-a-1n1g-fsdp2tp1"
ID = "20260102-030405-1a2b3c"
DRIVER = """\
# ===== BEGIN CONFIG =====
NUM_NODES=2
GPUS_PER_NODE=4
STEPS_PER_RUN=5
MAX_STEPS=10
NUM_RUNS=2
NUM_MINUTES=20
# ===== END CONFIG =====
exit 1
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one driver, which no test may run, on a machine without Slurm."""
    git = shutil.which("git")
    assert git is not None
    path = tmp_path / "tests" / "test_suites" / "llm" / f"{NAME}.sh"
    path.parent.mkdir(parents=True)
    path.write_text(DRIVER)
    subprocess.run([git, "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(
    capsys: pytest.CaptureFixture[str], *words: str, status: int = 2, name: bool = True
) -> str:
    assert main(["baseline", "record", *([NAME] if name else []), *words]) == status
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message", "fix"),
    [
        (["--account", "me"], "--account is for jobs", "add --executor slurm"),
        (["--executor", "local", "--profile", "p"], "--profile is for jobs", "--executor slurm"),
        (["--retries", "0"], "--retries is for jobs", "add --executor slurm"),
        (["--dry-run"], "--dry-run is for jobs", "add --executor slurm"),
        (["--launch", ID, "--executor", "local"], "and the executor is local", "leave --executor"),
        (["--launch", ID, "--partition", "p"], f"launched, and {ID} was before", "launch anew"),
        (["--launch", ID, "--include-dirty"], "--include-dirty is said when", "launch anew"),
        (["--launch", ID, "--evidence", "e"], "--evidence says where", "leave it out"),
        (["--executor", "slurm", "--evidence", "e"], "--evidence says where", "leave it out"),
        (["--executor", "slurm", "--runs", "0"], "--runs is 0, not a positive number", ""),
        (["--executor", "slurm", "--twins", "-1"], "--twins is -1", ""),
        (["--executor", "slurm", "--output", "."], "a folder, where a file is wanted", "B.json"),
        (["--launch", ID], "nothing was launched from this repository yet", ""),
        (["--direction", "train/loss=bar"], "side 'bar' of train/loss; valid: lower, higher", ""),
        (["--executor", "slurm", "--direction", "x", "--dry-run"], "'x' is not NAME=SIDE", ""),
    ],
)
def test_what_does_not_go_together_is_told_with_the_mend(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str, fix: str
) -> None:
    told = refused(capsys, *words)
    assert message in told
    assert fix in told
    assert not (root / "code_snapshots").exists()


@pytest.mark.parametrize("words", [["--executor", "slurm"], ["--launch", ID], ["--mount", "/a:/b"]])
def test_runs_at_hand_need_no_jobs(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    told = refused(capsys, "--from", "m1.json", *words, name=False)
    assert f"{words[0]} is for runs that are trained, and --from takes" in told


def test_a_recipe_that_has_a_baseline_is_refused_before_a_snapshot(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "tests" / "baselines" / "llm" / NAME / "h100.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    told = refused(capsys, "--executor", "slurm")
    assert f"{path}: this recipe has a baseline already" in told
    assert "--output FILE is for the one of another platform" in told
    told = refused(capsys, "--executor", "slurm", "--output", str(path))
    assert f"{path}: this baseline exists already" in told
    # of what is replaced, only the cluster is missing then
    told = refused(capsys, "--executor", "slurm", "--force", status=3)
    assert "the executor is slurm, but there is no sbatch on the PATH" in told
    assert not (root / "code_snapshots").exists()


def test_a_dry_run_says_what_the_runs_may_take(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["baseline", "record", NAME, "--executor", "slurm", "--runs", "3"]
    line = f"[INFO]: 4 runs of {NAME} in 8 jobs may take up to 21.33 GPU-hours\n"
    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out == line
    monkeypatch.setenv("DRYRUN", "1")
    assert main(words) == 0
    assert capsys.readouterr().out == line
    assert "no such file of profiles" in refused(capsys, *words[3:], "--profile", "p")
    monkeypatch.setenv("DRYRUN", "2")
    assert "DRYRUN=2 prepares launches of drivers" in refused(capsys, *words[3:])
    assert not (root / "code_snapshots").exists()


def made(root: Path, *, recording: bool) -> Path:
    """The folder of a launch of the recipe."""
    folder = root / "code_snapshots" / ".launches" / ID
    shape = {
        "num_nodes": 1, "gpus_per_node": 1, "num_runs": 2, "num_minutes": 20,
        "max_steps": 10, "steps_per_run": 5, "comment": None,
    }  # fmt: skip
    driver = f"tests/test_suites/llm/{NAME}.sh"
    recipe = {"name": NAME, "folder": "001", "driver": driver, "tree": "1", "shape": shape}
    value = {
        "schema_version": 1, "launch_id": ID, "created": "2026-01-02T03:04:05+00:00", "user": "me",
        "host": "here", "python": "python3", "commit": "c0ffee", "suite": None,
        "options": {
            "executor": "slurm", "environment": {}, "mounts": [], "secret_names": [],
            "script_args": [], "sbatch_options": [], "exclude_nodes": [],
        },
        "recipes": [recipe],
    }  # fmt: skip
    if recording:
        value["recording"] = {"runs": 2, "twins": 0}
    folder.mkdir(parents=True)
    (folder / "launch.json").write_text(json.dumps(value))
    driver_in_tree = root / "code_snapshots" / ".trees" / "1" / driver
    driver_in_tree.parent.mkdir(parents=True)
    driver_in_tree.write_text(DRIVER)
    return folder


def test_a_launch_that_is_picked_up_is_one_of_this_recipe_for_a_baseline(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(root, recording=False)
    assert f"launch {ID} trains no baseline" in refused(capsys, "--launch", ID)
    words = ["baseline", "record", "sft-b-1n1g-fsdp2tp1", "--launch", str(folder)]
    assert main(words) == 2
    assert "'sft-b-1n1g-fsdp2tp1' is not part of launch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nosuch.key=3", "there is no key 'nosuch'"),
        ("sft.max_num_steps=many", "sft.max_num_steps"),
        ("seed=3", "--script-arg seed=3: each run of a baseline has its own seed"),
        ("+policy.numeric_twin=1", "has its own policy.numeric_twin"),
    ],
)
def test_arguments_that_would_end_every_job_are_refused_before_there_is_one(
    capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    name = "sft-llama-0.9m-1n1g-fsdp2tp1"
    words = ["--executor", "slurm", "--dry-run", "--output", "new.json", "--script-arg", argument]
    assert main(["baseline", "record", name, "--root", str(ROOT), *words]) == 2
    assert message in capsys.readouterr().err


def test_what_a_launch_still_takes_is_told_by_a_dry_run(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(root, recording=True)
    words = ["baseline", "record", NAME, "--launch", str(folder), "--dry-run"]
    for more, runs in (([], 2), (["--runs", "4"], 4), (["--twins", "2"], 4)):
        assert main([*words, *more]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"[INFO]: {runs} runs of {NAME} in {2 * runs} jobs may take up to ")
    assert [path.name for path in folder.iterdir()] == ["launch.json"]


def test_other_commands_leave_the_runs_of_a_baseline_to_this_one(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(root, recording=True)
    (folder / "001").mkdir()
    command = f"evenkeel baseline record {NAME} --launch {folder}"
    for words in (["watch"], ["watch", ID, "--once"], ["continue", str(folder / "001")]):
        assert main(words) == 2
        assert f"fix: {command} " in capsys.readouterr().err
    assert main(["snapshot", "list"]) == 0
    assert capsys.readouterr().out == f"  {NAME}  {ID}  c0ffee  me  for a baseline\n"


def test_all_that_jobs_are_asked_for_with_is_known_to_be_for_jobs() -> None:
    parser = argparse.ArgumentParser()
    group = parser.add_argument_group("the jobs")
    launch.add_job_arguments(group)
    declared = {action.dest for action in parser._actions} - {"help", "snapshot_dir"}
    assert declared == set(launch.JOB_ARGUMENTS)
    record = CommandParser(prog="baseline")
    baseline.add_arguments(record)
    found = vars(record.parse_args(["record", NAME]))
    assert set(launch.JOB_ARGUMENTS) <= set(found)
