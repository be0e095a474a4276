from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes.lint import git


def run(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree in a folder of a repository, with names that need care."""
    tree = tmp_path / "sub folder"
    tree.mkdir()
    for name in ("a.yaml", "ü b.yaml", "gone.yaml", "empty.yaml"):
        (tree / name).write_text("" if "empty" in name else f"{name}\nmissing\n", encoding="utf-8")
    (tmp_path / "outside.yaml").write_text("x\n", encoding="utf-8")
    run(tmp_path, "init", "-q", "-b", "main")
    run(tmp_path, "add", "-A")
    run(tmp_path, "commit", "-q", "-m", "start")
    return tree


def test_texts_at_a_commit_come_in_one_call(tree: Path) -> None:
    commit = git.base_of(tree, None)
    assert commit is not None
    (tree / "gone.yaml").unlink()
    (tree / "a.yaml").write_text("new\n", encoding="utf-8")
    paths = ["a.yaml", "never.yaml", "ü b.yaml", "empty.yaml", "gone.yaml", "."]
    assert git.texts_at(tree, commit, paths) == {
        "a.yaml": "a.yaml\nmissing\n",
        "ü b.yaml": "ü b.yaml\nmissing\n",
        "empty.yaml": "",
        "gone.yaml": "gone.yaml\nmissing\n",
    }


def test_changed_files_are_relative_to_the_tree_and_include_new_ones(tree: Path) -> None:
    commit = git.base_of(tree, "HEAD")
    assert commit is not None
    assert git.changed_since(tree, commit, ".") == []
    (tree / "ü b.yaml").write_text("new\n", encoding="utf-8")
    (tree / "added.yaml").write_text("new\n", encoding="utf-8")
    (tree.parent / "outside.yaml").write_text("new\n", encoding="utf-8")
    assert git.changed_since(tree, commit, ".") == ["added.yaml", "ü b.yaml"]


def test_the_tree_counts_not_the_repository_of_a_hook(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert git.commit_of(tree, "HEAD") is not None


def test_without_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git.base_of(tmp_path, None) is None
    assert git.texts_at(tmp_path, "0" * 40, ["a"]) == {}
    with pytest.raises(InputError, match="git knows no revision 'v1'"):
        git.base_of(tmp_path, "v1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.base_of(tmp_path, None) is None
