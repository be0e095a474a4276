"""``evenkeel check`` from the outside: verdict, table, JSON and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenkeel.cli.main import main
from evenkeel.metrics import series

GOOD = 'mean(data["train/loss"], -10, 0) < 0.5'
BAD = 'data["train/loss"]["1"] < 0.5'


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.json"
    series.save(path, {"train/loss": {step: 1.0 / step for step in range(1, 51)}})
    return path


def test_passed_and_failed(metrics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(metrics), GOOD]) == 0
    assert f"PASS {metrics}: 1 check passed" in capsys.readouterr().out.replace("\n", " ")
    assert main(["check", str(metrics), GOOD, BAD]) == 1
    table = capsys.readouterr().out
    assert "REGRESSED" in table
    row = next(line for line in table.splitlines() if line.strip().startswith(BAD))
    assert row.split()[-6:] == ["1", "0.5", "-0.5", "(-100.0%)", "1", "failed"]


def test_the_contract_for_machines(metrics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(metrics), GOOD, BAD, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "REGRESSED"
    assert [check["passed"] for check in found["checks"]] == [True, False]
    assert {"check", "value", "passed", "margin", "message"} <= found["checks"][0].keys()


def test_a_run_that_ended_early_does_not_pass(
    metrics: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(metrics), GOOD, "--max-steps", "60"]) == 1
    assert "INCOMPLETE" in capsys.readouterr().out
    assert main(["check", str(metrics), GOOD, "--max-steps", "50"]) == 0
    assert main(["check", str(metrics), GOOD, "--max-steps", "0"]) == 2


def test_a_directory_of_a_run(metrics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(metrics.parent), GOOD]) == 0
    assert main(["check", str(metrics.parent / "none"), GOOD]) == 2
    (metrics.parent / "empty").mkdir()
    assert main(["check", str(metrics.parent / "empty"), GOOD]) == 2
    assert "neither metrics.json nor run.json" in capsys.readouterr().err


def test_a_text_that_is_no_check_ends_in_status_2(
    metrics: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(metrics), GOOD, "means(data['a']) < 1"]) == 2
    message = capsys.readouterr().err
    assert "did you mean 'mean'?" in message
    assert "^ column 1" in message


def test_no_check_at_all_is_wrong_usage(metrics: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", str(metrics)])
    assert caught.value.code == 2
