"""pytest as the comparator: a test per run, check and metric, with the verdicts of the CLI.

Another repository gets the same with a ``conftest.py`` of one line and a test file of two::

    pytest_plugins = ["evenkeel.pytest_plugin"]

    def test_run(judged_run): judged_run.assert_good()
    def test_check(judged_check): judged_check.assert_good()
    def test_metric(judged_metric): judged_metric.assert_good()

``judged_metric`` compares with the recipe's baseline, or with the file that ``--baseline`` names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evenkeel.convergence import judgement as judgements
from evenkeel.convergence.verdict import Judgement, with_comparison
from evenkeel.errors import InputError
from evenkeel.metrics.evaluation import CheckResult
from evenkeel.recipes import config_block, driver_checks
from evenkeel.run_paths import RunPaths

if TYPE_CHECKING:
    from evenkeel.convergence.results import MetricResult

_EVIDENCE = re.compile(r"\.(baseline/|confirm\d$)")


@dataclass(frozen=True)
class JudgedRun:
    """A run and its verdict."""

    path: Path
    judgement: Judgement

    @property
    def name(self) -> str:
        """The recipe's name; of a bare file, that of its directory."""
        return self.path.parent.name if self.path.is_file() else self.path.name

    def assert_good(self) -> None:
        """Fail unless the verdict is one that exits 0."""
        verdict = self.judgement.verdict
        assert verdict.exit_code == 0, f"{self.name}: {verdict}: {self.judgement.message}"


@dataclass(frozen=True)
class JudgedCheck:
    """One check of a run."""

    result: CheckResult

    def assert_good(self) -> None:
        """Fail unless the check passed."""
        assert self.result.passed, self.result.message


@dataclass(frozen=True)
class JudgedMetric:
    """One metric of a run, compared with the baseline: all of its summaries."""

    results: tuple[MetricResult, ...]

    def assert_good(self) -> None:
        """Fail, with interval, baseline and a plot, unless the metric converges as it did.

        Speed and memory are noted in the test's properties and never fail where there is a
        convergence to judge.
        """
        from evenkeel.convergence.metric_kinds import Family

        if self.results[0].family is not Family.CONVERGENCE:
            return
        bad = [one for one in self.results if one.verdict.exit_code != 0]
        if bad:
            from evenkeel.report.comparison_text import explanation

            pytest.fail("\n".join(explanation(one) for one in bad), pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What to judge, and by what."""
    group = parser.getgroup("evenkeel", "convergence of training runs")
    group.addoption(
        "--run",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a results directory or a metrics.json; repeatable",
    )
    group.addoption(
        "--results",
        type=Path,
        metavar="DIR",
        help="every results directory below DIR (default without --run: tests/test_suites)",
    )
    group.addoption(
        "--check",
        action="append",
        default=[],
        metavar="EXPR",
        help="judge by these checks instead of those of the driver; repeatable",
    )
    group.addoption(
        "--baseline",
        type=Path,
        metavar="B.json",
        help="compare with this baseline instead of the recipe's own",
    )
    group.addoption(
        "--max-steps", type=int, help="the step to reach (default: MAX_STEPS of the driver)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests for ``judged_run``, ``judged_check`` and ``judged_metric``, from the runs given."""
    if "judged_run" in metafunc.fixturenames:
        runs = _judged_runs(metafunc.config)
        metafunc.parametrize("judged_run", runs, ids=[run.name for run in runs])
    if "judged_check" in metafunc.fixturenames:
        checks = [
            pytest.param(JudgedCheck(result), id=f"{run.name}: {result.check}")
            for run in _judged_runs(metafunc.config)
            for result in run.judgement.checks
        ]
        metafunc.parametrize("judged_check", checks)
    if "judged_metric" in metafunc.fixturenames:
        metrics = [
            pytest.param(JudgedMetric(results), id=f"{run.name}: {results[0].metric}")
            for run in _judged_runs(metafunc.config)
            for results in _by_metric(run.judgement)
        ]
        metafunc.parametrize("judged_metric", metrics)


def _by_metric(judgement: Judgement) -> list[tuple[MetricResult, ...]]:
    if judgement.comparison is None:
        return []
    found: dict[str, list[MetricResult]] = {}
    for result in judgement.comparison.results:
        found.setdefault(result.metric, []).append(result)
    return [tuple(results) for results in found.values()]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Name run and verdict in the test's properties: JUnit files have them, and the summary."""
    callspec = getattr(item, "callspec", None)
    run = callspec.params.get("judged_run") if callspec else None
    if isinstance(run, JudgedRun):
        item.user_properties += [
            ("run", str(run.path)),
            ("verdict", run.judgement.verdict.value),
        ]
    metric = callspec.params.get("judged_metric") if callspec else None
    if isinstance(metric, JudgedMetric):
        item.user_properties += [
            (f"{one.summary}.{key}", value)
            for one in metric.results
            for key, value in (
                ("finding", one.label),
                ("value", one.value),
                ("low", one.low),
                ("high", one.high),
                ("baseline", one.baseline),
                ("minimum_detectable_change", one.minimum_detectable_change),
                ("p_value", one.p_value),
            )
            if value is not None
        ]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The table that ``judge`` prints, for each run that was judged."""
    from evenkeel.report import terminal

    reports = [
        report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)
    ]
    judged = {
        Path(value) for report in reports for name, value in report.user_properties if name == "run"
    }
    for path in sorted(judged):
        run = _judged(path, *_terms(config))
        terminalreporter.write(terminal.judgement_text(run.judgement, run.name))


def _judged_runs(config: pytest.Config) -> list[JudgedRun]:
    paths = [path.resolve() for path in config.getoption("--run")]
    root = config.getoption("--results")
    if root is None and not paths:
        root = config.rootpath / "tests" / "test_suites"
    if root is not None:
        paths += _results_below(root.resolve())
    try:
        return [_judged(path, *_terms(config)) for path in paths]
    except InputError as error:
        # of all errors this one is shown as its message alone, without a traceback
        raise pytest.Collector.CollectError(str(error)) from error


def _terms(config: pytest.Config) -> tuple[tuple[str, ...], int | None, Path | None]:
    """The checks, the last step and the baseline that the command line gives."""
    return (
        tuple(config.getoption("--check")),
        config.getoption("--max-steps"),
        config.getoption("--baseline"),
    )


def _results_below(root: Path) -> list[Path]:
    found = {path.parent for name in ("run.json", "metrics.json") for path in root.rglob(name)}
    # runs that confirm or make up a baseline are part of another judgement
    return sorted(path for path in found if not _EVIDENCE.search(path.as_posix()))


@cache
def _judged(
    path: Path, checks: tuple[str, ...], max_steps: int | None, baseline: Path | None
) -> JudgedRun:
    """Judge once per session. A directory's driver, beside it, says what it does not get told."""
    if not path.exists():
        raise InputError("no such run", path=path, fix="name a results directory or a metrics.json")
    directory = path.parent if path.is_file() else path
    driver = directory.with_name(f"{directory.name}.sh")
    if driver.is_file():
        checks = checks or tuple(driver_checks.read(driver))
        max_steps = config_block.read(driver).max_steps if max_steps is None else max_steps
    if path.is_file() and not RunPaths(directory).run_json.exists():
        judged = JudgedRun(path, judgements.judge_metrics(path, checks, max_steps))
    else:
        judgement = judgements.judge_run(RunPaths(directory), checks, max_steps)
        judged = JudgedRun(directory, judgement)
    return judged if baseline is None else _compared(judged, baseline)


def _compared(run: JudgedRun, baseline: Path) -> JudgedRun:
    """Judged once more, with the baseline that the command line gives."""
    from evenkeel.convergence import baseline_judgement
    from evenkeel.convergence.comparison import Options
    from evenkeel.convergence.run_evidence import read_evidence

    comparison = baseline_judgement.compare_evidence(
        baseline_judgement.read_baseline([baseline]), [read_evidence(run.path)], Options()
    )
    return replace(run, judgement=with_comparison(run.judgement, comparison))
