"""A real git repository with drivers in it, shielded from the caller's git configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .test_plan import driver


class GitTree:
    """A repository in the layout that the launcher expects."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.root), "-c", "protocol.file.allow=always", *words],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def driver(self, name: str, **values: object) -> Path:
        folder = self.root / "tests" / "test_suites" / "llm"
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(driver(folder, name, **values))  # type: ignore[arg-type]
        path.chmod(0o755)
        return path

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "a change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def shielded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GIT_", "SLURM_", "SBATCH_", "EVENKEEL_", "HF_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = A\n\temail = a@example.invalid\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))


@pytest.fixture
def tree(tmp_path: Path, shielded: None) -> GitTree:
    found = GitTree(tmp_path / "a repo")
    found.write("src/code.py", "x = 1\n")
    found.write("pyproject.toml", "")
    found.write(".gitignore", "code_snapshots/\n")
    found.driver("sft-a-1n8g-fsdp2tp1")
    found.driver("sft-b-1n8g-fsdp2tp1")
    found.commit()
    return found
