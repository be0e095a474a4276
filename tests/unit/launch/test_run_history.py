from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.cli.main import main
from evenkeel.launch.launch_record import LaunchRecord
from evenkeel.launch.run_history import changed_since, percentile, read_history, usage_of

from .conftest import GitTree
from .test_snapshot import A, B, taken
from .test_snapshot_care import LOCAL, dated


def ran(record: LaunchRecord, name: str, *minutes: float, status: int = 0) -> None:
    """As if the jobs of a recipe had taken so long."""
    submission = record.submission(name)
    for run, length in enumerate(minutes, 1):
        begin = 1_700_000_000 + 10_000 * run
        lines = [f"start\t{begin}\t{run}\t0\tnode1"]
        if length > 0:
            lines.append(f"end\t{begin + round(length * 60)}\t{run}\t0\t{status}")
        text = "".join(f"{line}\n" for line in lines)
        (submission.launch_dir / f"run-{run}.journal").write_text(text)


def test_used_hours_and_the_proposal(tree: GitTree) -> None:
    for day, minutes in enumerate((10, 12, 11), 1):
        record = dated(taken(tree, A, options=LOCAL).record, day)
        ran(record, A, minutes, minutes)
    taken(tree, A)  # never started: tells nothing
    past = read_history(tree.root / "code_snapshots")[A]
    usage = usage_of(past)
    assert usage.num_launches == 3
    assert usage.median_gpu_minutes == 2 * 11 * 8
    assert usage.p95_gpu_minutes == 2 * 12 * 8
    assert usage.proposed_num_minutes == 15  # 12 minutes and a quarter more
    assert usage.num_cut_short == 0


def test_a_job_that_was_cut_short_raises_the_proposal(tree: GitTree) -> None:
    record = taken(tree, A).record
    ran(record, A, 10, 0)
    usage = usage_of(read_history(tree.root / "code_snapshots")[A])
    assert usage.num_cut_short == 1
    assert usage.proposed_num_minutes == 40  # NUM_MINUTES=30 was too little
    assert usage.median_gpu_minutes == (10 + 30) * 8


def test_a_job_at_work_is_not_cut_short(tree: GitTree) -> None:
    record = taken(tree, A).record
    ran(record, A, 10, 0)
    past = read_history(tree.root / "code_snapshots", now=1_700_020_000 + 60)[A]
    assert past[0].num_cut_short == 0


def test_how_it_went_last(tree: GitTree) -> None:
    good, bad = taken(tree, A, B).record, taken(tree, A).record
    ran(good, A, 5)
    ran(good, B, 5, status=1)
    ran(bad, A, 5)
    bad.submission(A).run_dir.mkdir()
    (bad.submission(A).run_dir / "verdict.json").write_text('{"verdict": "REGRESSED"}')
    history = read_history(tree.root / "code_snapshots")
    # two launches of one second have no order: what each says is what matters
    assert {past.submission.launch_id: past.failed for past in history[A]} == {
        bad.launch_id: True,
        good.launch_id: False,
    }
    assert history[B][0].failed


def test_changed_is_the_driver_or_any_file_of_its_recipe(tree: GitTree) -> None:
    recipes = "examples/configs/recipes/llm"
    tree.write("examples/configs/sft.yaml", "a: 1\n")
    tree.write(f"{recipes}/{A}.yaml", "defaults: ../../sft.yaml\n")
    tree.commit()
    last = taken(tree, A).record.submission(A)
    assert not changed_since(tree.root, last)
    tree.write("examples/configs/sft.yaml", "a: 2\n")
    assert changed_since(tree.root, last)
    tree.write("examples/configs/sft.yaml", "a: 1\n")
    assert not changed_since(tree.root, last)
    tree.driver(A, minutes=31)
    assert changed_since(tree.root, last)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_percentile_is_the_nearest_rank(values: list[float], fraction: float) -> None:
    values.sort()
    found = percentile(values, fraction)
    assert sum(value <= found for value in values) >= fraction * len(values)
    assert sum(value < found for value in values) < fraction * len(values)


def listing(tree: GitTree, *lines: str) -> None:
    tree.write("tests/test_suites/nightly.txt", "\n".join((*lines, f"llm/{A}.sh", f"llm/{B}.sh")))


def call(tree: GitTree, *words: str) -> int:
    return main(["plan", "--root", str(tree.root), "--suite", "nightly", *words])


def test_what_fits_a_declared_budget(tree: GitTree, capsys: pytest.CaptureFixture[str]) -> None:
    listing(tree, "#: budget_gpu_hours_per_night: 16")
    assert call(tree, "--budget") == 0
    assert capsys.readouterr().out == "fits: 16 of 16 GPU-hours a night (the suite's night)\n"
    assert call(tree, "--budget", "10") == 1
    assert capsys.readouterr().out == (
        "does not fit: 16 of 10 GPU-hours a night (as given)\n"
        "every recipe once in 2 nights does: --nights 2 shows tonight's share\n"
    )
    listing(tree, "#: budget_gpu_hours_per_night: 16", "#: budget_gpu_hours_per_week: 70")
    assert call(tree, "--budget") == 1
    assert "16 of 10 GPU-hours a night (a seventh of" in capsys.readouterr().out


def test_a_rotation_over_two_nights(tree: GitTree, capsys: pytest.CaptureFixture[str]) -> None:
    listing(tree)
    ran_names = []
    for night in ("2026-01-01", "2026-01-02"):
        assert call(tree, "--budget", "10", "--nights", "2", "--night", night, "--json") == 0
        value = json.loads(capsys.readouterr().out)
        assert value["spent_gpu_hours"] == 8
        ran_names += [recipe["name"] for recipe in value["recipes"] if recipe["runs"]]
    assert sorted(ran_names) == [A, B]


def test_history_as_a_table(tree: GitTree, capsys: pytest.CaptureFixture[str]) -> None:
    listing(tree)
    ran(taken(tree, A).record, A, 10)
    assert call(tree, "--history") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [A, "1", "8.00", "1.33", "1.33", "30", "15"]
    assert lines[2].split() == [B, "0", "8.00", "-", "-", "30", "-"]


def test_no_budget_anywhere_is_said(tree: GitTree, capsys: pytest.CaptureFixture[str]) -> None:
    listing(tree)
    assert call(tree, "--budget") == 2
    assert "budget_gpu_hours_per_night" in capsys.readouterr().err
    assert call(tree, "--budget", "many") == 2


def test_a_launch_takes_tonights_share(tree: GitTree, capsys: pytest.CaptureFixture[str]) -> None:
    listing(tree)
    root = ["--root", str(tree.root)]
    words = ["launch", *root, "--suite", "nightly", "--dry-run"]
    assert main([*words, "--nights", "2", "--budget", "10"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "[INFO]: Total GPU hours: 8"
    assert "runs tonight, 8 GPU-hours: its turn" in captured.err
    assert "its turn is tomorrow" in captured.err
    assert main(["launch", "--nights", "2", f"{A}.sh"]) == 2


def test_parked_drivers_are_not_launched(tree: GitTree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.write("tests/test_suites/disabled.txt", f"llm/{A}.sh  # broken; owner: @a\n")
    root = ["--root", str(tree.root)]
    assert main(["launch", *root, "--suite", "disabled", "--prepare"]) == 2
    assert "parks drivers" in capsys.readouterr().err
    assert main(["plan", *root, "--suite", "disabled"]) == 0
