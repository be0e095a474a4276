from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from evenkeel import run_record
from evenkeel.errors import InputError
from evenkeel.recipes import config
from evenkeel.training import provenance
from evenkeel.training.provenance import differences, git_state, record

CPU = torch.device("cpu")
UNKNOWN = {"commit": None, "dirty": None, "diff_sha256": None}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    git(root, "init", "-q")
    (root / ".gitignore").write_text("ignored\n")
    (root / "src" / "a.py").write_text("1\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    return root


def resolved(tmp_path: Path, *overrides: str) -> config.ResolvedRecipe:
    path = tmp_path / "my-recipe.yaml"
    path.write_text("sft:\n  max_num_steps: 30\n")
    return config.load(path, overrides)


def test_a_clean_tree_is_its_commit(repository: Path) -> None:
    (repository / "ignored").write_text("x")
    commit = git(repository, "rev-parse", "HEAD")
    state = git_state(repository / "src")
    assert state == {"commit": commit, "dirty": False, "diff_sha256": None}


def test_every_change_changes_the_hash(repository: Path) -> None:
    states = []
    for path, text in [("src/a.py", "2\n"), ("src/a.py", "3\n"), ("new.py", "4"), ("new.py", "5")]:
        (repository / path).write_text(text)
        states.append(git_state(repository))
    assert all(state["dirty"] for state in states)
    assert len({state["diff_sha256"] for state in states}) == 4
    assert git_state(repository) == states[-1]


def test_variables_of_git_do_not_mislead(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = git_state(repository)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git_state(repository) == expected


def test_a_snapshot_knows_its_commit(repository: Path) -> None:
    tree = repository / "ignored" / provenance.SNAPSHOTS / "abc-1"
    (tree / "src").mkdir(parents=True)
    (repository / "link").symlink_to(tree)
    manifest = tree.with_name("abc-1.json")
    said = {"schema_version": 1, "commit": "abc", "included": ["a.py"], "diff_sha256": "def"}
    manifest.write_text(json.dumps(said))
    state = {"commit": "abc", "dirty": True, "diff_sha256": "def"}
    assert git_state(tree / "src") == git_state(repository / "link" / "src") == state
    manifest.write_text(json.dumps(said | {"included": [], "diff_sha256": None}))
    assert git_state(tree) == {"commit": "abc", "dirty": False, "diff_sha256": None}
    # never the commit of the repository around it, which may be another by now
    manifest.write_text("[]")
    assert git_state(tree) == UNKNOWN


def test_outside_of_a_repository_nothing_is_claimed(tmp_path: Path) -> None:
    assert git_state(tmp_path) == UNKNOWN


def test_record_holds_what_was_run_and_keeps_the_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    path = tmp_path / "run.json"
    run_record.open_attempt(path, {"first_step": 1})
    recipe = resolved(tmp_path)
    record(path, recipe, CPU)
    run_record.close_attempt(path, 0, 0)
    written = json.loads(path.read_text())
    assert written["schema_version"] == 1
    assert (written["recipe"], written["algorithm"]) == ("my-recipe", "sft")
    assert (written["max_steps"], written["fingerprint"]) == (30, recipe.fingerprint)
    assert written["config"] == recipe.values
    assert written["packages"]["torch"] == version("torch")
    assert written["platform"]["device"] == "cpu"
    assert written["platform"]["driver"] is None
    assert written["git"] == git_state(Path(provenance.__file__).parent)
    assert written["attempts"][0]["exit_status"] == 0
    assert "changed_from" not in written["attempts"][0]
    assert "hf_verysecret" not in path.read_text()


def test_an_attempt_says_what_changed_since_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    run_record.open_attempt(path, {})
    record(path, resolved(tmp_path), CPU)
    run_record.open_attempt(path, {})
    monkeypatch.setattr(provenance, "package_versions", lambda: {"torch": "99"})
    record(path, resolved(tmp_path, "sft.max_num_steps=60"), CPU)
    first, second = json.loads(path.read_text())["attempts"]
    assert "changed_from" not in first
    assert second["changed_from"]["packages"]["torch"] == version("torch")
    assert second["changed_from"]["max_steps"] == 30
    assert second["changed_from"]["config"] == {"sft": {"max_num_steps": 30}}


def test_differences_are_the_old_values_that_went() -> None:
    old = {"a": 1, "b": {"c": 2, "d": 3}, "gone": 4, "same": {"x": 1}}
    new = {"a": 2, "b": {"c": 2, "d": 4}, "same": {"x": 1}, "fresh": 5}
    assert differences(old, new) == {"a": 1, "b": {"d": 3}, "gone": 4}


def test_a_foreign_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"run\.json: not a run record"):
        record(path, resolved(tmp_path), CPU)
    assert path.read_text() == "[1]"
