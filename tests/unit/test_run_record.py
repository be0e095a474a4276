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
    assert run_record.close_attempt(path, first, 75) == 75
    second = run_record.open_attempt(path, {"first_step": 31})
    record = json.loads(path.read_text())
    assert (first, second) == (0, 1)
    assert list(record) == ["schema_version", "recipe", "fingerprint", "attempts"]
    assert [attempt["exit_status"] for attempt in record["attempts"]] == [75, None]
    assert record["attempts"][0]["end"] is not None
    assert record["attempts"][1]["end"] is None
    assert record["attempts"][1]["first_step"] == 31


@pytest.mark.parametrize(
    ("process_status", "noted", "kept"),
    [(0, None, 0), (1, None, 1), (1, 75, 75), (1, 76, 76), (0, 0, 0), (1, 0, 1), (-9, 75, -9)],
)
def test_the_trainers_own_word_replaces_torchruns_1(
    tmp_path: Path, process_status: int, noted: int | None, kept: int
) -> None:
    path = tmp_path / "run.json"
    attempt = run_record.open_attempt(path, {})
    if noted is not None:
        run_record.note_trainer_exit(path, noted)
    assert run_record.close_attempt(path, attempt, process_status) == kept
    assert run_record.read(path)["attempts"][0]["exit_status"] == kept


def test_a_note_changes_no_attempt_that_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run_record.close_attempt(path, run_record.open_attempt(path, {}), 0)
    before = path.read_text()
    run_record.note_trainer_exit(path, 76)
    assert path.read_text() == before


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
