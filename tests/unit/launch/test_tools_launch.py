"""The command as users type it, in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evenkeel.cli.main import main

from .test_plan import driver

REPOSITORY = Path(__file__).parents[3]
LAUNCH = REPOSITORY / "tools" / "launch"


def call(cwd: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), **variables}
    return subprocess.run(
        [str(LAUNCH), *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


def suite_tree(root: Path) -> Path:
    folder = root / "tests" / "test_suites" / "llm"
    folder.mkdir(parents=True)
    return folder


def test_the_command_of_the_handbook(tmp_path: Path) -> None:
    folder = suite_tree(tmp_path)
    driver(folder, "sft-llama3.2-1b-1n8g-fsdp2tp1", steps=250, max_steps=250, minutes=15)
    before = sorted(tmp_path.rglob("*"))
    done = call(
        folder.parent,
        "./llm/sft-llama3.2-1b-1n8g-fsdp2tp1.sh",
        DRYRUN="1",
        CONTAINER="...",
        ACCOUNT="...",
        PARTITION="...",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "[INFO]: 2 GPUhrs to run ./llm/sft-llama3.2-1b-1n8g-fsdp2tp1.sh",
        "[INFO]: Total GPU hours: 2",
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_flag_and_variable_say_the_same(tmp_path: Path) -> None:
    path = driver(suite_tree(tmp_path), "a")
    by_flag = call(tmp_path, "--dry-run", path)
    by_variable = call(tmp_path, path, DRYRUN="1")
    assert by_flag.stdout == by_variable.stdout != ""


def test_broken_drivers_are_named_and_the_exit_status_says_so(tmp_path: Path) -> None:
    folder = suite_tree(tmp_path)
    driver(folder, "good")
    driver(folder, "bad", minutes="soon")
    done = call(folder, "bad.sh", "good.sh", "--dry-run")
    assert done.returncode == 2
    assert "[ERROR]: bad.sh is broken: bad.sh:7:" in done.stderr
    assert done.stdout.splitlines()[-1] == "[INFO]: Total GPU hours: 8"


def test_a_recipe_of_the_repository_around_is_found_by_name(tmp_path: Path) -> None:
    folder = suite_tree(tmp_path)
    driver(folder, "sft-a")
    for cwd in (tmp_path, folder.parent, folder):
        for word in ("sft-a", "sft-a.sh", "llm/sft-a.sh"):
            done = call(cwd, "--dry-run", word)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.splitlines()[0] == f"[INFO]: 8 GPUhrs to run {word}"
    done = call(tmp_path, "--dry-run", "sft-b", "sft-a")
    assert done.returncode == 2
    assert done.stderr == (
        "[ERROR]: sft-b is broken: sft-b: there is no such driver\n"
        "  fix: name a driver script, or a recipe of the repository around you\n"
    )
    assert done.stdout.splitlines()[-1] == "[INFO]: Total GPU hours: 8"
    outside = call(tmp_path.parent, "--dry-run", "sft-a")
    assert (outside.returncode, "there is no such driver" in outside.stderr) == (2, True)


@pytest.mark.parametrize("flag", ["--run", "--batch"])
def test_a_dry_run_reads_the_profile_that_it_names(tmp_path: Path, flag: str) -> None:
    path = driver(suite_tree(tmp_path), "a")
    dry_run = ("--dry-run", path, flag)
    missing = call(tmp_path, *dry_run, "my-cluster")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "no such file of profiles, where profile 'my-cluster' is asked for" in missing.stderr

    (tmp_path / "env.toml").write_text("[my-cluster]\naccount = 'me'\n[other]\n")
    mistyped = call(tmp_path, *dry_run, "my-clutser")
    assert (mistyped.returncode, mistyped.stdout) == (2, "")
    assert mistyped.stderr == (
        f"evenkeel: error: {tmp_path}/env.toml: no profile 'my-clutser' (did you mean"
        " 'my-cluster'?); there are: my-cluster, other\n"
        "  fix: add a table [my-clutser] with executor, account and partition\n"
    )
    named = call(tmp_path, *dry_run, "my-cluster")
    assert (named.returncode, named.stdout) == (0, call(tmp_path, "--dry-run", path).stdout)


def test_a_dry_run_finds_profiles_where_the_launch_will(tmp_path: Path) -> None:
    path = driver(suite_tree(tmp_path / "training"), "a")
    (tmp_path / ".git").mkdir()
    (tmp_path / "env.toml").write_text("[mine]\n")
    assert call(tmp_path, "--dry-run", path, "--run", "mine").returncode == 0


def test_a_shadowing_file_in_the_working_directory_is_not_imported(tmp_path: Path) -> None:
    path = driver(suite_tree(tmp_path), "a")
    (tmp_path / "argparse.py").write_text("raise SystemExit('shadowed')")
    assert call(tmp_path, path, DRYRUN="1").returncode == 0


@pytest.mark.parametrize("profile", [[], ["--run", "mine"]])
def test_an_estimate_loads_nothing_heavy(tmp_path: Path, profile: list[str]) -> None:
    path = driver(suite_tree(tmp_path), "a")
    (tmp_path / "env.toml").write_text("[mine]\n")
    code = (
        "import sys; from evenkeel.cli.main import main\n"
        f"status = main(['launch', '--dry-run', {path!r}, *{profile!r}])\n"
        "heavy = {'torch', 'nemo_run', 'numpy', 'rich', 'omegaconf', 'yaml', 'subprocess'}\n"
        "print('LOADED', status, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED 0 []"


def test_plan_of_a_suite_as_json(tmp_path: Path, capsys) -> None:
    folder = suite_tree(tmp_path)
    driver(folder, "a", nodes=2)
    driver(folder, "b")
    (folder.parent / "nightly.txt").write_text("# two\nllm/b.sh\nllm/a.sh\n")
    assert main(["plan", "--root", str(tmp_path), "--suite", "nightly", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [recipe["name"] for recipe in value["recipes"]] == ["b", "a"]
    assert value["total_gpu_hours"] == 24


def test_an_unknown_suite_names_the_known(tmp_path: Path, capsys) -> None:
    folder = suite_tree(tmp_path)
    (folder.parent / "nightly.txt").write_text("")
    assert main(["plan", "--root", str(tmp_path), "--suite", "nihgtly"]) == 2
    assert "did you mean 'nightly'?" in capsys.readouterr().err
