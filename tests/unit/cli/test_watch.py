"""Which launch ``evenkeel watch`` means."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.cli.main import main
from evenkeel.cli.watch import find_launch
from evenkeel.launch.launch_record import LaunchRecord, LaunchState, write_state
from evenkeel.launch.request import LaunchOptions, Recording

IDS = [f"2026010{day}T030405-1a2b3c" for day in range(1, 6)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tests" / "test_suites").mkdir(parents=True)
    return tmp_path


def launched(tree: Path, launch_id: str, recording: Recording | None = None) -> Path:
    folder = tree / "code_snapshots" / ".launches" / launch_id
    folder.mkdir(parents=True)
    record = LaunchRecord(
        folder=folder, launch_id=launch_id, created="2026-01-01T00:00:00+00:00", user="me",
        host="here", python="python3", commit="c0ffee", suite=None, options=LaunchOptions(),
        recipes=(), recording=recording,
    )  # fmt: skip
    record.write(folder)
    return folder


def test_without_a_launch_it_says_how_to_make_one(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], ["20260101T030405-1a2b3c"]):
        assert main(["watch", *words, "--root", str(tree)]) == 2
        assert capsys.readouterr().err == (
            f"evenkeel: error: {tree}/code_snapshots: nothing was launched from this repository"
            " yet\n"
            "  fix: launch a suite with 'tools/launch --suite nightly --watch', or one recipe with"
            " 'tools/launch DRIVER'; for launches kept elsewhere pass --root or --snapshot-dir\n"
        )
    assert not (tree / "code_snapshots").exists()


def test_a_mistyped_launch_is_told_the_newest(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for launch_id in IDS:
        launched(tree, launch_id)
    assert main(["watch", "20260102T030405-1a2b4c", "--root", str(tree)]) == 2
    told = capsys.readouterr().err
    assert "no launch '20260102T030405-1a2b4c' (did you mean '20260102T030405-1a2b3c'?)" in told
    assert f"the newest are {IDS[4]}, {IDS[3]}, {IDS[2]}\n" in told


def test_a_launch_is_found_by_id_or_folder_and_the_newest_without(tree: Path) -> None:
    folders = [launched(tree, launch_id) for launch_id in IDS]
    for launch, place in ((None, -1), (IDS[1], 1), (str(folders[2]), 2)):
        assert find_launch(launch, tree, None).folder == folders[place]


def test_a_launch_that_was_only_prepared_does_not_hide_the_newest(tree: Path) -> None:
    folders = [launched(tree, launch_id) for launch_id in IDS]
    write_state(folders[0], LaunchState.SUBMITTED)
    for folder in folders[2:]:
        write_state(folder, LaunchState.PREPARED)
    assert find_launch(None, tree, None).folder == folders[1]
    assert find_launch(IDS[4], tree, None).folder == folders[4]


def test_a_launch_that_was_only_prepared_is_said_to_be(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_state(launched(tree, IDS[0]), LaunchState.PREPARED)
    launched(tree, IDS[1], Recording(5, 1))  # of a baseline, though newer
    for words in ([], [IDS[0]]):
        assert main(["watch", *words, "--once", "--root", str(tree)]) == 2
        assert f"launch {IDS[0]} was only prepared (DRYRUN=2)" in capsys.readouterr().err
    launched(tree, IDS[2])
    assert find_launch(None, tree, None).launch_id == IDS[2]
