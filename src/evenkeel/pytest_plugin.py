"""pytest as the comparator: one test per run and per check, with the verdicts of the command line.

Another repository gets the same with a ``conftest.py`` of one line and a test file of two::

    pytest_plugins = ["evenkeel.pytest_plugin"]

    def test_run(judged_run): judged_run.assert_good()
    def test_check(judged_check): judged_check.assert_good()
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from evenkeel.convergence import judgement as judgements
from evenkeel.convergence.verdict import Judgement
from evenkeel.errors import InputError
from evenkeel.metrics.evaluation import CheckResult
from evenkeel.recipes import config_block, driver_checks
from evenkeel.run_paths import RunPaths


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
        "--max-steps", type=int, help="the step to reach (default: MAX_STEPS of the driver)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per run for ``judged_run``, one per check for ``judged_check``."""
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


def pytest_itemcollected(item: pytest.Item) -> None:
    """Name run and verdict in the test's properties: JUnit files have them, and the summary."""
    callspec = getattr(item, "callspec", None)
    run = callspec.params.get("judged_run") if callspec else None
    if isinstance(run, JudgedRun):
        item.user_properties += [
            ("run", str(run.path)),
            ("verdict", run.judgement.verdict.value),
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
        raise pytest.UsageError(str(error)) from error


def _terms(config: pytest.Config) -> tuple[tuple[str, ...], int | None]:
    """The checks and the last step that the command line gives."""
    return tuple(config.getoption("--check")), config.getoption("--max-steps")


def _results_below(root: Path) -> list[Path]:
    found = {path.parent for name in ("run.json", "metrics.json") for path in root.rglob(name)}
    return sorted(found)


@cache
def _judged(path: Path, checks: tuple[str, ...], max_steps: int | None) -> JudgedRun:
    """Judge once per session. A directory's driver, beside it, says what it does not get told."""
    if not path.exists():
        raise InputError("no such run", path=path, fix="name a results directory or a metrics.json")
    directory = path.parent if path.is_file() else path
    driver = directory.with_name(f"{directory.name}.sh")
    if driver.is_file():
        checks = checks or tuple(driver_checks.read(driver))
        max_steps = config_block.read(driver).max_steps if max_steps is None else max_steps
    if path.is_file() and not RunPaths(directory).run_json.exists():
        return JudgedRun(path, judgements.judge_metrics(path, checks, max_steps))
    return JudgedRun(directory, judgements.judge_run(RunPaths(directory), checks, max_steps))
