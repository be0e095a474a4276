"""run.json, written in turns by the runner and the trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenkeel import run_record
from evenkeel.errors import InputError


def test_attempts_are_appended_and_closed_around_the_trainers_own_keys(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    first = run_record.open_attempt(path, {})
    run_record.add(path, {"recipe": "a", "fingerprint": "f"})
    run_record.close_attempt(path, first, {"exit_status": 75})
    second = run_record.open_attempt(path, {"first_step": 31})
    record = json.loads(path.read_text())
    assert (first, second) == (0, 1)
    assert list(record) == ["schema_version", "recipe", "fingerprint", "attempts"]
    assert [attempt["exit_status"] for attempt in record["attempts"]] == [75, None]
    assert record["attempts"][0]["end"] is not None
    assert record["attempts"][1]["end"] is None
    assert record["attempts"][1]["first_step"] == 31


def test_an_attempt_knows_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    path = tmp_path / "run.json"
    run_record.open_attempt(path, {})
    attempt = run_record.read(path)["attempts"][0]
    assert (attempt["job_id"], attempt["restart_count"]) == ("71", 2)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"attempts": 3}'])
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"run\.json"):
        run_record.read(path)
