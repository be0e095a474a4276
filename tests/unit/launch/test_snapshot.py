from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from evenkeel.errors import InputError, MachineError
from evenkeel.launch import tree_store
from evenkeel.launch.launch_record import read_record
from evenkeel.launch.manifest import differences, read_manifest
from evenkeel.launch.plan import shape_of
from evenkeel.launch.request import LaunchOptions, LaunchRequest
from evenkeel.launch.snapshot import Taken, take
from evenkeel.launch.tree_store import TreeStore
from evenkeel.recipes.config_block import read

from .conftest import GitTree

A, B = "sft-a-1n8g-fsdp2tp1", "sft-b-1n8g-fsdp2tp1"
SUITES = "tests/test_suites/llm"


def request(tree: GitTree, *names: str, **fields: object) -> LaunchRequest:
    drivers = tuple(tree.root / SUITES / f"{name}.sh" for name in names)
    made = LaunchRequest(tree.root, drivers, tree.root / "code_snapshots")
    return replace(made, **fields)  # type: ignore[arg-type]


def taken(tree: GitTree, *names: str, **fields: object) -> Taken:
    asked = request(tree, *names, **fields)
    return take(asked, [shape_of(read(driver)) for driver in asked.drivers])


def shown(tree: GitTree, name: str) -> Path:
    return tree.root / "code_snapshots" / name


def test_the_snapshot_is_the_code_of_the_commit(tree: GitTree) -> None:
    commit = tree.git("rev-parse", "HEAD")
    tree.write("src/link", "").unlink()
    (tree.root / "src" / "link").symlink_to("code.py")
    tree.write("bin/tool", "#!/bin/sh\n").chmod(0o755)
    commit = tree.commit()
    found = taken(tree, A)
    tree.write("src/code.py", "x = 2\n")
    code = shown(tree, A)
    assert (code / "src/code.py").read_text() == "x = 1\n"
    assert (code / "src/link").readlink() == Path("code.py")
    assert os.access(code / "bin/tool", os.X_OK)
    assert not os.access(code / "src/code.py", os.X_OK)
    assert found.record.commit == commit
    assert found.warnings == ()


def test_every_file_and_folder_is_read_only_but_results_have_a_place(tree: GitTree) -> None:
    submission = taken(tree, A).record.submission(A)
    writable = [
        path
        for path in (submission.tree, *submission.tree.rglob("*"))
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o222
    ]
    assert writable == [submission.driver_path.parent]
    submission.run_dir.mkdir()
    (submission.run_dir / "metrics.json").write_text("{}")
    for place in (f"{SUITES}/{A}", f"recipes/llm/{A}"):
        assert (shown(tree, A) / place / "metrics.json").read_text() == "{}"


def test_recipes_of_one_moment_share_one_tree(tree: GitTree) -> None:
    record = taken(tree, A, B).record
    later = taken(tree, B).record
    assert record.submission(A).tree == record.submission(B).tree
    assert later.submission(B).tree != record.submission(B).tree
    first, second = (r.submission(B).tree / "src/code.py" for r in (record, later))
    assert first.stat().st_ino == second.stat().st_ino


def test_a_third_recipe_joins_the_first_tree(tree: GitTree) -> None:
    first = taken(tree, A).record.submission(A)
    second = taken(tree, B).record.submission(B)
    assert first.tree == second.tree


def test_a_new_commit_shares_what_did_not_change(tree: GitTree) -> None:
    old = taken(tree, A).record.submission(A).tree
    tree.write("src/new.py", "y = 1\n")
    tree.commit()
    new = taken(tree, A).record.submission(A).tree
    assert (old / "src/code.py").stat().st_ino == (new / "src/code.py").stat().st_ino
    assert (new / "src/new.py").exists()
    assert not (old / "src/new.py").exists()


def test_newest_shows_and_older_stays(tree: GitTree) -> None:
    first = taken(tree, A).record
    second = taken(tree, A).record
    assert shown(tree, A).resolve() == second.submission(A).launch_dir
    assert (first.submission(A).launch_dir / "src/code.py").exists()
    assert read_record(first.folder) == first


def test_a_file_that_was_written_to_is_not_shared(tree: GitTree) -> None:
    old = taken(tree, A).record.submission(A).tree / "src/code.py"
    old.chmod(0o644)
    old.write_text("x = 9\n")
    os.utime(old, ns=(0, old.stat().st_mtime_ns + 10**9))
    for name in (A, B):
        code = taken(tree, name).record.submission(name).tree / "src/code.py"
        assert code.read_text() == "x = 1\n"


def test_verify_names_what_differs(tree: GitTree) -> None:
    submission = taken(tree, A).record.submission(A)
    manifest = read_manifest(Path(f"{submission.tree}.json"))
    results = frozenset({f"{SUITES}/{A}"})
    submission.run_dir.mkdir()
    (submission.run_dir / "run.log").write_text("")
    assert list(differences(manifest, submission.tree, results)) == []
    code = submission.tree / "src/code.py"
    for path in (submission.tree, code.parent, code):
        path.chmod(0o755)
    code.chmod(0o644)
    code.write_text("x = 2\n")
    (submission.tree / "pyproject.toml").unlink()
    (submission.tree / "src" / "sitecustomize.py").write_text("")
    assert list(differences(manifest, submission.tree, results)) == [
        "missing: pyproject.toml",
        "modified: src/code.py",
        "added: src/sitecustomize.py",
    ]


def test_git_confirms_the_hashes(tree: GitTree) -> None:
    submission = taken(tree, A).record.submission(A)
    manifest = read_manifest(Path(f"{submission.tree}.json"))
    listed = dict(
        reversed(line.split(" ", 2)[2].split("\t"))
        for line in tree.git("ls-tree", "-r", "HEAD").splitlines()
    )
    assert {name: entry.content for name, entry in manifest.files.items()} == listed


def test_uncommitted_changes_are_left_out_and_named(tree: GitTree) -> None:
    tree.write("src/code.py", "x = 2\n")
    tree.write("notes.txt", "")
    found = taken(tree, A)
    assert (shown(tree, A) / "src/code.py").read_text() == "x = 1\n"
    assert any("src/code.py" in line and "--include-dirty" in line for line in found.warnings)
    assert any("notes.txt" in line for line in found.warnings)


def test_uncommitted_changes_are_taken_and_recorded_on_request(tree: GitTree) -> None:
    tree.write("src/code.py", "x = 2\n")
    tree.write("src/staged.py", "new\n")
    tree.git("add", "src/staged.py")
    (tree.root / "pyproject.toml").unlink()
    before = tree.git("status", "--porcelain"), tree.git("count-objects")
    submission = taken(tree, A, include_dirty=True).record.submission(A)
    assert (submission.tree / "src/code.py").read_text() == "x = 2\n"
    assert (submission.tree / "src/staged.py").exists()
    assert not (submission.tree / "pyproject.toml").exists()
    manifest = read_manifest(Path(f"{submission.tree}.json"))
    assert set(manifest.included) == {"src/code.py", "src/staged.py", "pyproject.toml"}
    assert list(differences(manifest, submission.tree, frozenset())) == []
    # the recorded difference leads from the commit to what ran
    copy = tree.root.parent / "copy"
    subprocess.run(["git", "clone", "-q", tree.root, copy], check=True)
    subprocess.run(["git", "-C", copy, "apply", f"{submission.tree}.diff"], check=True)
    assert (copy / "src/code.py").read_text() == "x = 2\n"
    assert (copy / "src/staged.py").exists()
    assert (tree.git("status", "--porcelain"), tree.git("count-objects")) == before


def test_a_change_within_the_second_of_the_commit_is_seen(tree: GitTree) -> None:
    time.sleep(1.01 - time.time() % 1)  # git compares times in seconds: begin with one
    tree.write("src/code.py", "x = 7\n")
    tree.commit()
    tree.write("src/code.py", "x = 8\n")
    time.sleep(1.01 - time.time() % 1)
    submission = taken(tree, A, include_dirty=True).record.submission(A)
    assert (submission.tree / "src/code.py").read_text() == "x = 8\n"


def test_a_dirty_tree_is_another_snapshot_than_its_commit(tree: GitTree) -> None:
    clean = taken(tree, A).record.submission(A)
    tree.write("src/code.py", "x = 2\n")
    dirty = taken(tree, B, include_dirty=True).record.submission(B)
    again = taken(tree, B).record.submission(B)
    assert dirty.tree != clean.tree
    assert again.tree == clean.tree


@pytest.mark.parametrize("state", ["modified", "untracked"])
def test_a_driver_that_the_snapshot_would_not_hold_is_refused(tree: GitTree, state: str) -> None:
    name = A if state == "modified" else "sft-new-1n8g-fsdp2tp1"
    tree.driver(name, minutes=99)
    with pytest.raises(InputError, match=state):
        taken(tree, name)
    assert not (tree.root / "code_snapshots" / name).exists()
    if state == "modified":
        taken(tree, name, include_dirty=True)
        assert "NUM_MINUTES=99" in (shown(tree, A) / SUITES / f"{A}.sh").read_text()


def test_a_release_needs_a_clean_tree(tree: GitTree) -> None:
    options = LaunchOptions(is_release=True)
    taken(tree, A, options=options)
    tree.write("src/code.py", "x = 2\n")
    for include_dirty in (False, True):
        with pytest.raises(InputError, match="release"):
            taken(tree, A, options=options, include_dirty=include_dirty)


def test_submodules_are_part_of_it(tree: GitTree, tmp_path: Path) -> None:
    inner = GitTree(tmp_path / "inner")
    inner.write("deep/inner.py", "1\n")
    inner.commit()
    tree.git("submodule", "-q", "add", str(inner.root), "third_party/inner")
    tree.commit()
    inner_commit = inner.git("rev-parse", "HEAD")
    submission = taken(tree, A).record.submission(A)
    assert (submission.tree / "third_party/inner/deep/inner.py").read_text() == "1\n"
    manifest = read_manifest(Path(f"{submission.tree}.json"))
    assert manifest.submodules == {"third_party/inner": inner_commit}
    # what is checked out there now is not what the commit says
    (tree.root / "third_party/inner/deep/inner.py").write_text("2\n")
    clean = taken(tree, B)
    assert (clean.record.submission(B).tree / "third_party/inner/deep/inner.py").read_text() == (
        "1\n"
    )
    assert any("third_party/inner" in line for line in clean.warnings)
    dirty = taken(tree, B, include_dirty=True).record.submission(B)
    assert (dirty.tree / "third_party/inner/deep/inner.py").read_text() == "2\n"
    assert b"a/third_party/inner/deep/inner.py" in Path(f"{dirty.tree}.diff").read_bytes()


def test_a_submodule_that_is_not_checked_out_is_said_to_be_missing(
    tree: GitTree, tmp_path: Path
) -> None:
    inner = GitTree(tmp_path / "inner")
    inner.write("a", "")
    inner.commit()
    tree.git("submodule", "-q", "add", str(inner.root), "sub")
    tree.commit()
    tree.git("submodule", "-q", "deinit", "-f", "sub")
    assert any("submodule sub" in line for line in taken(tree, A).warnings)


def test_odd_names_arrive(tree: GitTree) -> None:
    names = ["a b.txt", "new\nline", "quote'\"$HOME", "tab\t", "-dash", "ümlaut"]
    for name in names:
        tree.write(f"odd/{name}", name)
    raw = os.fsencode(tree.root / "odd") + b"/not-utf8-\xff"
    Path(os.fsdecode(raw)).write_text("raw")
    tree.commit()
    submission = taken(tree, A).record.submission(A)
    for name in names:
        assert (submission.tree / "odd" / name).read_text() == name
    manifest = read_manifest(Path(f"{submission.tree}.json"))
    assert list(differences(manifest, submission.tree, frozenset())) == []


def test_filtered_files_arrive_as_a_checkout_would_show_them(tree: GitTree) -> None:
    tree.write(".gitattributes", "*.txt text eol=crlf\n")
    tree.write("a.txt", "one\ntwo\n")
    tree.commit()
    first = taken(tree, A).record.submission(A)
    second = taken(tree, A).record.submission(A)
    for submission in (first, second):
        assert (submission.tree / "a.txt").read_bytes() == b"one\r\ntwo\r\n"
        manifest = read_manifest(Path(f"{submission.tree}.json"))
        assert list(differences(manifest, submission.tree, frozenset())) == []


def test_a_full_disk_leaves_nothing_half_made(tree: GitTree) -> None:
    taken(tree, B)
    tree.write("big.bin", "x" * 300_000)
    tree.commit()
    store = tree.root / "code_snapshots"
    before = sorted(store.rglob("*"))
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "from evenkeel.cli.main import main\n"
        "sys.exit(main(['launch', '--prepare', '--executor', 'local', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tree.root / SUITES / f"{A}.sh")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert "snapshot" in done.stderr
    assert sorted(store.rglob("*")) == before
    assert taken(tree, A).record.submission(A).driver_path.exists()


def test_what_a_killed_launch_left_is_removed_and_never_used(tree: GitTree) -> None:
    store = TreeStore(tree.root / "code_snapshots")
    with store.locked():
        left = store.root / ".building-1"
        left.mkdir()
        (left / "half").write_text("")
        (store.root / "0-orphan.json").write_text("{}")
    taken(tree, A)
    names = {path.name for path in store.root.iterdir()}
    assert not any(name.startswith(".building") or "orphan" in name for name in names)


def test_where_links_are_impossible_files_are_copied(
    tree: GitTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(tree_store.errno.EXDEV, "cross-device link")

    first = taken(tree, A).record.submission(A).tree
    monkeypatch.setattr(tree_store.os, "link", no_links)
    second = taken(tree, A).record.submission(A).tree
    assert first != second
    one, other = (path / "src/code.py" for path in (first, second))
    assert one.read_text() == other.read_text()
    assert one.stat().st_ino != other.stat().st_ino
    assert stat.S_IMODE(other.stat().st_mode) == 0o444


def test_results_of_two_recipes_in_git_are_refused(tree: GitTree) -> None:
    tree.write(f"{SUITES}/{A}/metrics.json", "{}")
    tree.commit()
    with pytest.raises(InputError, match="results"):
        taken(tree, A)


def test_a_folder_of_another_tool_is_not_replaced(tree: GitTree) -> None:
    (tree.root / "code_snapshots" / A).mkdir(parents=True)
    with pytest.raises(InputError, match="not ours"):
        taken(tree, A)


def test_without_git_the_mend_is_named(tmp_path: Path, shielded: None) -> None:
    if shutil.which("git") is None:
        pytest.skip("no git")
    script = tmp_path / "plain" / "a.sh"
    script.parent.mkdir()
    script.write_text("")
    with pytest.raises((InputError, MachineError), match="git"):
        take(LaunchRequest(script.parent, (script,), script.parent / "code_snapshots"), [])


def test_launches_of_one_recipe_at_once_get_a_place_each(tree: GitTree) -> None:
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(lambda _: taken(tree, A).record, range(4)))
    places = {record.submission(A).run_dir for record in records}
    assert len(places) == 4
    assert all(record.submission(A).driver_path.exists() for record in records)
    assert shown(tree, A).resolve() in {record.submission(A).launch_dir for record in records}
