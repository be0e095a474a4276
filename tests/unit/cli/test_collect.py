"""``evenkeel collect`` from the outside: files in, metrics.json, summary and exit status out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from event_bytes import frame, opening, write_run

from evenkeel.cli.main import main


def test_the_summary_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "logs", {1: 0.5, 2: 0.25}, start=1000)
    write_run(tmp_path / "logs", {2: 0.75}, start=2000)
    output = tmp_path / "new" / "metrics.json"
    assert main(["collect", str(tmp_path / "logs"), "--output", str(output)]) == 0
    assert output.read_text() == '{\n  "train/loss": {"1": 0.5, "2": 0.75}\n}\n'
    printed = capsys.readouterr()
    assert printed.out == (
        f"{output}: 1 metrics, 2 values, last step 2, from 2 event files; "
        "1 values replaced by those of later starts\n"
    )
    assert printed.err == ""


def test_json_and_continuing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "logs", {1: 0.5})
    output, state = tmp_path / "metrics.json", tmp_path / "state.json"
    command = ["collect", str(tmp_path / "logs"), "-o", str(output), "--json"]
    assert main([*command, "--resume-state", str(state)]) == 0
    assert main([*command, "--resume-state", str(state)]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "output": str(output),
        "files": 1,
        "metrics": 1,
        "values": 1,
        "last_step": 1,
        "replaced": 0,
        "resumed": False,
        "damaged": False,
        "warnings": [],
    }
    assert second == {**first, "resumed": True}


def test_a_killed_run_warns_and_a_hole_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path, {1: 0.5, 2: 0.25})
    content = path.read_bytes()
    output = tmp_path / "metrics.json"
    path.write_bytes(content[:-1])
    assert main(["collect", str(tmp_path), "-o", str(output)]) == 0
    assert "warning: " in capsys.readouterr().err
    place = len(frame(opening())) + 15
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    assert main(["collect", str(tmp_path), "-o", str(output)]) == 1
    assert "corrupt stretch" in capsys.readouterr().err
    assert json.loads(output.read_text()) == {"train/loss": {"2": 0.25}}


def test_bad_input_keeps_the_old_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "metrics.json"
    output.write_text("old")
    (tmp_path / "logs").mkdir()
    assert main(["collect", str(tmp_path / "logs"), "-o", str(output)]) == 2
    assert "no event file" in capsys.readouterr().err
    write_run(tmp_path / "logs", {1: 0.5}, start=1000)
    write_run(tmp_path / "logs", {1: 0.75}, start=2000)
    command = ["collect", str(tmp_path / "logs"), "-o", str(output), "--on-conflict", "error"]
    assert main(command) == 2
    assert "step 1 was logged before as 0.5" in capsys.readouterr().err
    assert output.read_text() == "old"


@pytest.mark.parametrize("output", ["-", "."])
def test_an_output_that_is_no_file_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "logs", {1: 0.5})
    assert main(["collect", "logs", "--output", output]) == 2
    assert f"--output {output} is no file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
