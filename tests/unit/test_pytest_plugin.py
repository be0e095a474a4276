"""The comparator, run as pytest runs it, on run directories with real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import simulated_runs

from evenkeel import run_record
from evenkeel.cli.main import main
from evenkeel.metrics import series
from evenkeel.run_paths import RunPaths

COMPARATOR = Path(__file__).parents[1] / "convergence" / "test_convergence.py"
Compare = Callable[..., tuple[int, str]]
DRIVER = """\
# ===== BEGIN CONFIG =====
NUM_NODES=1
STEPS_PER_RUN=3
MAX_STEPS=3
NUM_RUNS=1
NUM_MINUTES=5
# ===== END CONFIG =====
train examples/run_sft.py "$@"
judge 'max(data["train/loss"]) < 9' 'data["train/loss"]["3"] < 1.5'
"""
CHECKS = ['max(data["train/loss"]) < 9', 'data["train/loss"]["3"] < 1.5']


def make_run(folder: Path, name: str, losses: list[float]) -> RunPaths:
    (folder / f"{name}.sh").write_text(DRIVER)
    paths = RunPaths(folder / name)
    series.save(paths.metrics, {"train/loss": dict(enumerate(losses, start=1))})
    run_record.close_attempt(paths.run_json, run_record.open_attempt(paths.run_json, {}), 0)
    return paths


@pytest.fixture
def compare(pytester: pytest.Pytester) -> Compare:
    """Run the comparator with these arguments; the result is its exit status and its output."""
    pytester.makeconftest('pytest_plugins = ["evenkeel.pytest_plugin"]')
    pytester.makepyfile(COMPARATOR.read_text())

    def run(*arguments: str | Path) -> tuple[int, str]:
        done = pytester.runpytest_inprocess("-q", ".", "-p", "no:xdist", *arguments)
        return int(done.ret), done.stdout.str()

    return run


def test_each_run_and_each_check_is_a_test_and_the_table_is_that_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], compare: Compare
) -> None:
    good = make_run(tmp_path, "good", [3.0, 2.0, 1.0])
    bad = make_run(tmp_path, "bad", [3.0, 2.0, 2.0])
    status, out = compare("--results", tmp_path)
    assert status == 1
    assert "2 failed, 4 passed" in out
    assert "bad: REGRESSED: 1 of 2 checks failed" in out
    capsys.readouterr()
    for paths, verdict in ((good, 0), (bad, 1)):
        assert main(["check", str(paths.root), *CHECKS, "--max-steps", "3"]) == verdict
        table = capsys.readouterr().out.splitlines()[:-1]
        assert "\n".join(table).strip("\n") in out


def test_a_good_run_passes(tmp_path: Path, compare: Compare) -> None:
    good = make_run(tmp_path, "good", [3.0, 2.0, 1.0])
    status, out = compare("--run", good.root)
    assert (status, "3 passed" in out, "PASS good: 2 checks passed" in out) == (0, True, True)


def test_a_run_cut_short_fails(tmp_path: Path, compare: Compare) -> None:
    short = make_run(tmp_path, "short", [3.0, 2.0])
    status, out = compare("--run", short.root, "--check", 'max(data["train/loss"]) < 9')
    assert status == 1
    assert "INCOMPLETE: step 2 of 3" in out


def test_a_bare_file_is_judged_by_the_checks_given(tmp_path: Path, compare: Compare) -> None:
    path = tmp_path / "metrics.json"
    series.save(path, {"train/loss": {1: 3.0}})
    assert compare("--run", path, "--check", 'data["train/loss"]["1"] < 9')[0] == 0
    status, out = compare("--run", path)
    assert (status, "NO_BASELINE" in out) == (1, True)


def test_each_metric_is_compared_with_the_baseline(
    tmp_path: Path, pytester: pytest.Pytester, compare: Compare
) -> None:
    for seed in range(5):
        series.save(tmp_path / f"m{seed}.json", simulated_runs.run(seed))
    runs = [str(tmp_path / f"m{seed}.json") for seed in range(5)]
    baseline = tmp_path / "B.json"
    assert main(["baseline", "record", "--from", *runs, "--output", str(baseline)]) == 0
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    series.save(good, simulated_runs.run(77))
    series.save(bad, simulated_runs.run(77, change=simulated_runs.scale(1.2)))
    junit = tmp_path / "junit.xml"
    status, out = compare("--run", good, "--baseline", baseline, f"--junitxml={junit}")
    assert (status, "2 passed" in out) == (0, True)
    assert 'name="final.minimum_detectable_change"' in junit.read_text()
    status, out = compare("--run", bad, "--baseline", baseline)
    assert (status, "2 failed" in out) == (1, True)
    assert "out of the band from step 1" in out
    assert "train/loss final: REGRESSED" in out
    assert "░" in out


def test_what_cannot_be_read_is_a_usage_error(tmp_path: Path, compare: Compare) -> None:
    status, out = compare("--run", tmp_path / "nowhere")
    assert status == pytest.ExitCode.INTERRUPTED
    assert "no such run" in out
    assert "Traceback" not in out
    assert "pluggy" not in out
