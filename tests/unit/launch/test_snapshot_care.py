from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from evenkeel.cli.main import main
from evenkeel.launch import launch_record
from evenkeel.launch.cluster import Cluster
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.launcher import only_launcher
from evenkeel.launch.liveness import Liveness, liveness_of
from evenkeel.launch.request import ExecutorKind, LaunchOptions
from evenkeel.launch.snapshot_care import launches, prune
from evenkeel.run_paths import RunPaths

from .conftest import GitTree
from .test_snapshot import A, B, shown, taken

LOCAL = LaunchOptions(executor=ExecutorKind.LOCAL)
NO_SLURM = Cluster({"PATH": "/nonexistent"})


def dated(record: LaunchRecord, day: int) -> LaunchRecord:
    """The record as if the launch had been made on that day of January 2026."""
    path = record.folder / launch_record.RECORD
    value = json.loads(path.read_text())
    value["created"] = f"2026-01-{day:02d}T12:00:00+00:00"
    path.write_text(json.dumps(value))
    return launch_record.read_record(record.folder)


def nights(tree: GitTree, *days: int, options: LaunchOptions = LOCAL) -> list[LaunchRecord]:
    made = []
    for day in days:
        tree.write("src/code.py", f"x = {day}\n")
        tree.commit()
        made.append(dated(taken(tree, A, options=options).record, day))
    return made


def test_old_nights_go_with_their_code_and_results(tree: GitTree) -> None:
    old, new = nights(tree, 1, 2)
    results = RunPaths(old.submission(A).run_dir)
    for run in (results, results.confirming(2), results.beside("own-seed")):
        run.root.mkdir()
        run.metrics.write_text("{}")
    store = tree.root / "code_snapshots"
    done = prune(store, 1, NO_SLURM, dry_run=False)
    assert [launch.launch_id for launch in done.launches] == [old.launch_id]
    assert not old.folder.exists()
    assert not old.submission(A).tree.exists()
    assert (shown(tree, A) / "src/code.py").read_text() == "x = 2\n"
    assert launches(store) == ([new], [])
    assert {path.name for path in (store / ".trees").iterdir()} == {
        ".lock",
        new.submission(A).tree.name,
        f"{new.submission(A).tree.name}.json",
        f"{new.submission(A).tree.name}.runs",
    }


def test_a_dry_run_removes_nothing(tree: GitTree) -> None:
    old, _ = nights(tree, 1, 2)
    before = sorted((tree.root / "code_snapshots").rglob("*"))
    done = prune(tree.root / "code_snapshots", 1, NO_SLURM, dry_run=True)
    assert [launch.launch_id for launch in done.launches] == [old.launch_id]
    assert sorted((tree.root / "code_snapshots").rglob("*")) == before


def test_code_that_a_kept_launch_shares_stays(tree: GitTree) -> None:
    old = dated(taken(tree, A, options=LOCAL).record, 1)
    new = dated(taken(tree, B, options=LOCAL).record, 2)
    assert old.submission(A).tree == new.submission(B).tree
    results = RunPaths(old.submission(A).run_dir)
    beside = [results.beside(variant) for variant in ("confirm1", "own-seed", "seed1001", "twin1")]
    other = results.beside("v2")
    for run in (results, *beside, other):
        run.root.mkdir()
    prune(tree.root / "code_snapshots", 1, NO_SLURM, dry_run=False)
    assert new.submission(B).driver_path.exists()
    assert not any(run.root.exists() for run in (results, *beside))
    assert other.root.exists()
    assert not shown(tree, A).is_symlink()
    # the place of the pruned results is free again
    assert taken(tree, A).record.submission(A).tree == new.submission(B).tree


def submitted(record: LaunchRecord, folder: Path | None = None) -> None:
    folder = folder or record.submission(A).launch_dir
    folder.mkdir(exist_ok=True)
    value = {
        "schema_version": 1,
        "run": 1,
        "name": "a-job",
        "state": "submitted",
        "job_id": 7,
        "after": None,
        "time": "",
        "earlier_ids": [],
        "error": None,
    }
    (folder / "run-1.json").write_text(json.dumps(value))


def test_a_launch_of_unknown_state_stays(tree: GitTree) -> None:
    old, _ = nights(tree, 1, 2, options=LaunchOptions())
    submitted(old)
    done = prune(tree.root / "code_snapshots", 0, NO_SLURM, dry_run=False)
    assert [launch.launch_id for launch, _ in done.kept] == [old.launch_id]
    assert "unknown" in done.kept[0][1]
    assert old.submission(A).driver_path.exists()
    assert shown(tree, A).resolve() == old.submission(A).launch_dir


def test_jobs_of_runs_beside_the_own_one_are_jobs_of_the_launch(tree: GitTree) -> None:
    confirmed, recorded, _ = nights(tree, 1, 2, 3, options=LaunchOptions())
    folders = [record.submission(A).launch_dir for record in (confirmed, recorded)]
    submitted(confirmed, folders[0] / "confirm1")
    submitted(recorded, folders[1] / "seed1001")
    asked = [confirmed, recorded]
    assert liveness_of(asked, NO_SLURM) == dict.fromkeys(folders, Liveness.UNKNOWN)
    # another job of its own run may write to the results of that one
    assert liveness_of(asked, NO_SLURM, beside=False) == dict.fromkeys(folders, Liveness.ENDED)
    done = prune(tree.root / "code_snapshots", 1, NO_SLURM, dry_run=False)
    assert [launch.launch_id for launch, _ in done.kept] == [
        recorded.launch_id,
        confirmed.launch_id,
    ]


def test_a_run_beside_that_is_being_submitted_keeps_its_launch(tree: GitTree) -> None:
    (record,) = nights(tree, 1)
    folder = record.submission(A).launch_dir
    (folder / "twin1").mkdir()
    handle = os.open(folder / "twin1" / "submit.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert liveness_of([record], NO_SLURM) == {folder: Liveness.LIVE}
    os.close(handle)
    assert liveness_of([record], NO_SLURM) == {folder: Liveness.ENDED}


def test_a_launch_that_is_being_submitted_is_live(tree: GitTree) -> None:
    (record,) = nights(tree, 1)
    folder = record.submission(A).launch_dir
    assert liveness_of([record], NO_SLURM) == {folder: Liveness.ENDED}
    with only_launcher(record.folder):
        assert liveness_of([record], NO_SLURM) == {folder: Liveness.LIVE}
    assert liveness_of([record], NO_SLURM) == {folder: Liveness.ENDED}


def test_a_launch_that_is_not_understood_stops_the_removal_of_code(tree: GitTree) -> None:
    old, new = nights(tree, 1, 2)
    (new.folder / launch_record.RECORD).write_text('{"schema_version": 99}')
    done = prune(tree.root / "code_snapshots", 0, NO_SLURM, dry_run=False)
    assert done.unreadable == (new.folder,)
    assert new.submission(A).tree.exists()
    assert old.submission(A).tree.exists()


def test_the_command_lists_verifies_and_prunes(
    tree: GitTree, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = nights(tree, 1, 2)
    root = ["--root", str(tree.root)]
    assert main(["snapshot", "list", *root, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["launches"]
    assert [(row["launch"], row["newest"]) for row in rows] == [
        (new.launch_id, True),
        (old.launch_id, False),
    ]
    assert main(["snapshot", "verify", *root]) == 0
    assert "intact" in capsys.readouterr().out
    code = old.submission(A).tree / "src/code.py"
    code.chmod(0o644)
    code.write_text("x = 7\n")
    assert main(["snapshot", "verify", *root, old.launch_id]) == 1
    assert "  modified: src/code.py" in capsys.readouterr().out
    assert main(["snapshot", "verify", *root, "nothing"]) == 2
    assert main(["snapshot", "prune", *root, "--keep-nights", "1"]) == 0
    assert capsys.readouterr().out == (
        f"removed launch {old.launch_id}: 1 recipe with all results\n"
        "removed 1 launch and 1 tree of code\n"
    )


def test_outside_of_a_repository_it_says_where_to_call_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["snapshot", "list", "--root", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}: snapshots are kept beside the code" in told
    assert "call from inside the repository, or pass --root DIR" in told
    assert main(["continue", str(tmp_path)]) == 2
    assert f"{tmp_path}: not the folder of a launched recipe" in capsys.readouterr().err


def test_a_manifest_that_was_changed_too_is_found_out_by_git(
    tree: GitTree, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = taken(tree, A).record.submission(A)
    code = submission.tree / "src/code.py"
    code.chmod(0o644)
    code.write_text("x = 7\n")
    blob = tree.git("hash-object", str(code))
    path = Path(f"{submission.tree}.json")
    old = tree.git("rev-parse", "HEAD:src/code.py")
    path.write_text(path.read_text().replace(old, blob))
    assert main(["snapshot", "verify", "--root", str(tree.root), A]) == 1
    assert "not as in commit" in capsys.readouterr().out


def test_verify_of_uncommitted_changes_is_intact(tree: GitTree) -> None:
    tree.write("src/code.py", "x = 2\n")
    taken(tree, A, include_dirty=True)
    assert main(["snapshot", "verify", "--root", str(tree.root)]) == 0


def test_results_and_caches_are_no_difference(tree: GitTree) -> None:
    submission = taken(tree, A).record.submission(A)
    for run in (RunPaths(submission.run_dir), RunPaths(submission.run_dir).confirming(1)):
        run.root.mkdir()
        run.run_log.write_text("x")
    (submission.tree / "src").chmod(0o755)
    (submission.tree / "src" / "__pycache__").mkdir()
    (submission.tree / "src" / "__pycache__" / "code.pyc").write_text("")
    assert main(["snapshot", "verify", "--root", str(tree.root)]) == 0
