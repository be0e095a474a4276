"""pytest as the comparator: a test per run, check and metric, with the verdicts of the CLI.

Another repository gets the same with a ``conftest.py`` of one line and a test file of three::

    pytest_plugins = ["evenkeel.pytest_plugin"]

    def test_run(judged_run): judged_run.assert_good()
    def test_check(judged_check): judged_check.assert_good()
    def test_metric(judged_metric): judged_metric.assert_good()

``judged_metric`` compares with the recipe's baseline, or with what ``--baseline`` names.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evenkeel.convergence import results_tree
from evenkeel.convergence.results_tree import Terms
from evenkeel.convergence.verdict import Judgement, Verdict
from evenkeel.errors import InputError
from evenkeel.metrics.evaluation import CheckResult
from evenkeel.run_paths import SUITES, Repository

if TYPE_CHECKING:
    from evenkeel.convergence.results import MetricResult

Properties = Iterator[tuple[str, object]]


@dataclass(frozen=True)
class JudgedRun:
    """A run and its verdict."""

    path: Path
    name: str
    """Its directory or file, with as many folders as tell it from the others."""
    judgement: Judgement

    def assert_good(self) -> None:
        """Fail unless the verdict is one that exits 0."""
        verdict = self.judgement.verdict
        if verdict.exit_code != 0:
            pytest.fail(f"{verdict} {self.name}: {self.judgement.message}", pytrace=False)

    def properties(self) -> Properties:
        """What a JUnit file holds of it."""
        judged = self.judgement
        yield from (("run", self.path), ("verdict", judged.verdict), ("message", judged.message))
        if judged.comparison is not None:
            yield from (("note", note) for note in judged.comparison.noted())


@dataclass(frozen=True)
class JudgedCheck:
    """One check of a run."""

    run: str
    result: CheckResult

    def assert_good(self) -> None:
        """Fail unless the check passed."""
        if not self.result.passed:
            text = f"{self.result.outcome} {self.run}: {self.result.check}\n{self.result.message}"
            pytest.fail(text, pytrace=False)

    def properties(self) -> Properties:
        """What a JUnit file holds of it."""
        shown = ("outcome", "value", "bound", "margin")
        return ((key, getattr(self.result, key)) for key in shown)


@dataclass(frozen=True)
class JudgedMetric:
    """One metric of a run, compared with the baseline: all of its summaries."""

    run: str
    results: tuple[MetricResult, ...]

    def assert_good(self) -> None:
        """Fail, with interval, baseline and a plot, unless the metric converges as it did.

        Speed and memory are noted, in the test's properties and at the end of the output, and
        never fail where there is a convergence to judge: ``judged_run`` has that verdict.
        """
        from evenkeel.convergence.metric_kinds import Family

        if self.results[0].family is not Family.CONVERGENCE:
            return
        bad = [one for one in self.results if one.verdict.exit_code != 0]
        if bad:
            from evenkeel.report.comparison_text import explanation

            summaries = ", ".join(f"{one.summary} {one.label}" for one in bad)
            first = f"{self.run}: {bad[0].metric}: {summaries}"
            pytest.fail(f"{first}\n{explanation(bad)}", pytrace=False)

    def properties(self) -> Properties:
        """What a JUnit file holds of it."""
        shown = ("label", "value", "low", "high", "baseline", "change",
                 "minimum_detectable_change", "p_value", "step")  # fmt: skip
        for one in self.results:
            for key in shown:
                yield f"{one.summary}.{key}".replace(".label", ".finding"), getattr(one, key)


_Judged = JudgedRun | JudgedCheck | JudgedMetric


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
        help=f"every results directory below DIR (default without --run: {SUITES}, if it has any)",
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
        help="compare with this baseline, or with NAME.json of this folder, not with the recipe's",
    )
    group.addoption(
        "--max-steps", type=int, help="the step to reach (default: MAX_STEPS of the driver)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests for ``judged_run``, ``judged_check`` and ``judged_metric``, from the runs given."""
    wanted = {"judged_run", "judged_check", "judged_metric"} & {*metafunc.fixturenames}
    runs = _judged_runs(metafunc.config) if wanted else []
    if "judged_run" in wanted:
        _parametrize(metafunc, "judged_run", [(run.name, run) for run in runs], "no results")
    if "judged_check" in wanted:
        checks = [
            (f"{run.name}: {result.check}", JudgedCheck(run.name, result))
            for run in runs
            for result in run.judgement.checks
        ]
        _parametrize(metafunc, "judged_check", checks, "no checks")
    if "judged_metric" in wanted:
        metrics = [
            (f"{run.name}: {results[0].metric}", JudgedMetric(run.name, results))
            for run in runs
            for results in _by_metric(run.judgement)
        ]
        _parametrize(metafunc, "judged_metric", metrics, "no run with a baseline")


def _parametrize(
    metafunc: pytest.Metafunc, name: str, found: Sequence[tuple[str, _Judged]], without: str
) -> None:
    params = [pytest.param(judged, id=text) for text, judged in found]
    nothing = pytest.param(None, id=without, marks=pytest.mark.skip(f"evenkeel: {without}"))
    metafunc.parametrize(name, params or [nothing])


def _by_metric(judgement: Judgement) -> list[tuple[MetricResult, ...]]:
    if judgement.comparison is None:
        return []
    found: dict[str, list[MetricResult]] = {}
    for result in judgement.comparison.results:
        found.setdefault(result.metric, []).append(result)
    return [tuple(results) for results in found.values()]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tell what was found in the test's properties: JUnit files have them, and the summary."""
    callspec = getattr(item, "callspec", None)
    for judged in callspec.params.values() if callspec else ():
        if isinstance(judged, _Judged):
            item.user_properties += [
                (key, value if isinstance(value, int | float) else str(value))
                for key, value in judged.properties()
                if value is not None
            ]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """A line for each run that is good, for others the table that ``judge`` prints."""
    from evenkeel.report import terminal

    reports = [
        report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)
    ]
    told = {
        properties["run"]: properties
        for properties in (dict(report.user_properties) for report in reports)
        if "run" in properties
    }
    if not told:
        return
    terminalreporter.section("runs judged by evenkeel")
    counts: Counter[str] = Counter()
    runs = _runs(config)
    terms = _terms(config, len(runs))
    for name, path in runs.items():
        properties = told.get(str(path))
        if properties is None:
            continue
        verdict = Verdict(properties["verdict"])
        counts[verdict] += 1
        if verdict.exit_code == 0 and "note" not in properties and config.get_verbosity() <= 0:
            terminalreporter.line(f"{verdict} {name}: {properties['message']}")
        else:
            terminalreporter.write(terminal.judgement_text(_judged(path, terms), name))
    if counts.total() > 1:
        total = ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common())
        terminalreporter.line(f"{counts.total()} runs: {total}")


def _judged_runs(config: pytest.Config) -> list[JudgedRun]:
    """The runs that the command line names, judged.

    Raises:
        pytest.Collector.CollectError: one cannot be judged; pytest then ends with status 2.
    """
    # of all errors this one is shown as its message alone, without a traceback
    try:
        runs = _runs(config)
        terms = _terms(config, len(runs))
        return [JudgedRun(path, name, _judged(path, terms)) for name, path in runs.items()]
    except InputError as error:
        raise pytest.Collector.CollectError(str(error)) from error


def _runs(config: pytest.Config) -> dict[str, Path]:
    """Name → path of every run that the command line names; empty where it names none."""
    given: list[Path] = [path.resolve() for path in config.getoption("--run")]
    root: Path | None = config.getoption("--results")
    if root is not None:
        given += results_tree.runs_below(root.resolve())
    elif not given:
        repository = _repository(config)
        try:
            given = results_tree.runs_below(repository.suites_dir) if repository else []
        except InputError:
            return {}  # nobody asked for them
    paths = list(dict.fromkeys(given))
    return dict(zip(results_tree.names_of(paths), paths, strict=True))


def _terms(config: pytest.Config, num_runs: int) -> Terms:
    """What the command line says on how to judge."""
    return Terms(
        checks=tuple(config.getoption("--check")),
        max_steps=config.getoption("--max-steps"),
        baseline=config.getoption("--baseline"),
        repository=_repository(config),
        num_runs=max(1, num_runs),
    )


def _repository(config: pytest.Config) -> Repository | None:
    """The one that pytest was called in; a folder with results can move what it takes for root."""
    for folder in (config.invocation_params.dir, config.rootpath):
        with contextlib.suppress(InputError):
            return Repository.around(folder)
    return None


@cache
def _judged(path: Path, terms: Terms) -> Judgement:
    """Judge once per process: tests of three kinds ask for the same runs."""
    return results_tree.judge(path, terms)
