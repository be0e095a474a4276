"""The comparator, run as pytest runs it, on run directories with real files."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import simulated_runs

from evenkeel import run_record
from evenkeel.cli.main import main
from evenkeel.metrics import series
from evenkeel.run_paths import RunPaths

# pytester forgets what is first imported within its test, and numpy cannot be loaded twice
importlib.import_module("evenkeel.convergence.baseline_judgement")

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


def table_of(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``evenkeel check`` shows of a run, without the verdict."""
    capsys.readouterr()
    main(["check", str(paths.root), *CHECKS, "--max-steps", "3"])
    return "\n".join(capsys.readouterr().out.splitlines()[:-1]).strip("\n")


def test_each_run_and_each_check_is_a_test_and_the_table_is_that_of_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], compare: Compare
) -> None:
    good = make_run(tmp_path, "good", [3.0, 2.0, 1.0])
    bad = make_run(tmp_path, "bad", [3.0, 2.0, 2.0])
    status, out = compare("--results", tmp_path)
    assert status == 1
    assert "2 failed, 4 passed, 1 skipped" in out
    assert "REGRESSED bad: 1 of 2 checks failed" in out
    assert f"FAILED bad: {CHECKS[1]}\n2 < 1.5 does not hold" in out
    assert "2 runs: 1 REGRESSED, 1 PASS" in out
    assert "Traceback" not in out and "JudgedCheck(" not in out
    # a good run is a line, with -v a table, too
    assert table_of(bad, capsys) in out
    assert table_of(good, capsys) not in out
    assert table_of(good, capsys) in compare("--results", tmp_path, "-vv")[1]


def test_a_good_run_passes(tmp_path: Path, compare: Compare) -> None:
    good = make_run(tmp_path, "good", [3.0, 2.0, 1.0])
    status, out = compare("--run", good.root)
    assert (status, "3 passed" in out, "PASS good: 2 checks passed" in out) == (0, True, True)


def test_without_results_tests_are_skipped_but_results_that_are_asked_for_must_be_there(
    tmp_path: Path, compare: Compare
) -> None:
    status, out = compare("-rs")
    assert (status, "3 skipped" in out, "evenkeel: no results" in out) == (0, True, True)
    for folder, words in ((tmp_path / "none", "no such folder"), (tmp_path, "no run below")):
        status, out = compare("--results", folder)
        assert (status, words in out) == (pytest.ExitCode.INTERRUPTED, True)


def test_runs_of_one_recipe_are_told_apart_by_their_folders(
    tmp_path: Path, compare: Compare
) -> None:
    for seed in ("seed1", "seed2"):
        (tmp_path / seed).mkdir()
        make_run(tmp_path / seed, "good", [3.0, 2.0, 1.0])
    status, out = compare("--results", tmp_path, "-vv")
    assert status == 0
    assert "test_run[seed1/good] PASSED" in out
    assert "test_run[seed2/good] PASSED" in out


def test_a_run_cut_short_fails(tmp_path: Path, compare: Compare) -> None:
    short = make_run(tmp_path, "short", [3.0, 2.0])
    status, out = compare("--run", short.root, "--check", 'max(data["train/loss"]) < 9')
    assert status == 1
    assert "INCOMPLETE short: step 2 of 3" in out


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
    assert "bad: train/loss: final REGRESSED, mean REGRESSED" in out
    assert "changes from" in out
    failure = out.partition("test_metric[bad: train/loss]")[2].partition("runs judged")[0]
    assert failure.count("step 1 ") == 1  # one plot for all summaries
    assert "░" in failure


def test_a_folder_of_baselines_has_one_for_each_run_and_speed_is_noted(
    tmp_path: Path, compare: Compare
) -> None:
    def metrics(seed: int, seconds: float, factor: float = 1.0) -> series.Metrics:
        times = simulated_runs.loss_curve(seed, change=lambda _, x: seconds * (1 + x / 1000))
        losses = simulated_runs.loss_curve(seed, change=simulated_runs.scale(factor))
        return {"train/loss": losses, "timing/train/total_step_time": times}

    for seed in range(5):
        series.save(tmp_path / f"m{seed}.json", metrics(seed, 0.5))
    runs = [str(tmp_path / f"m{seed}.json") for seed in range(5)]
    output = str(tmp_path / "baselines" / "slow.json")
    assert main(["baseline", "record", "--from", *runs, "--output", output]) == 0
    (tmp_path / "baselines" / "worse.json").write_bytes(Path(output).read_bytes())
    for name, factor in (("slow", 1.0), ("worse", 1.2), ("unknown", 1.0)):
        series.save(tmp_path / "night" / name / "metrics.json", metrics(77, 0.75, factor))
    junit = tmp_path / "junit.xml"
    status, out = compare(
        "--results", tmp_path / "night", "--baseline", tmp_path / "baselines", f"--junitxml={junit}"
    )
    assert status == 1
    slower = "SLOWER: timing/train/total_step_time +50.0%"
    assert f"PASS slow: 1 metric as in the baseline; {slower}" in " ".join(out.split())
    assert "REGRESSED worse: train/loss final" in out
    assert "NO_BASELINE unknown" in out
    assert "3 failed, 4 passed, 1 skipped" in out  # two runs, and the loss of one
    assert junit.read_text().count(f'name="note" value="{slower}"') == 2


def test_results_outside_of_the_repository_are_judged_by_its_drivers(
    tmp_path: Path, pytester: pytest.Pytester, compare: Compare
) -> None:
    suites = pytester.path / "tests" / "test_suites" / "llm" / "deep"
    suites.mkdir(parents=True)
    (suites / "own.sh").write_text(DRIVER)
    run = RunPaths(tmp_path / "last-night")
    series.save(run.metrics, {"train/loss": {1: 3.0, 2: 2.0, 3: 2.0}})
    run_record.add(run.run_json, {"recipe": "own"})
    status, out = compare("--results", tmp_path)
    assert (status, "REGRESSED last-night: 1 of 2 checks failed" in out) == (1, True)


def test_what_cannot_be_read_is_a_usage_error(tmp_path: Path, compare: Compare) -> None:
    status, out = compare("--run", tmp_path / "nowhere")
    assert status == pytest.ExitCode.INTERRUPTED
    assert "no such run" in out
    assert "Traceback" not in out
    assert "pluggy" not in out
