"""Compares what runs measured with what they must reach; see ``pytest --help``, evenkeel."""

from __future__ import annotations

from evenkeel.pytest_plugin import JudgedCheck, JudgedMetric, JudgedRun


def test_run(judged_run: JudgedRun) -> None:
    judged_run.assert_good()


def test_check(judged_check: JudgedCheck) -> None:
    judged_check.assert_good()


def test_metric(judged_metric: JudgedMetric) -> None:
    judged_metric.assert_good()
