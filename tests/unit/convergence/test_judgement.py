"""Run directories with real files in them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from event_bytes import scalar, write

from evenkeel import run_record
from evenkeel.convergence import judgement
from evenkeel.convergence.verdict import Verdict
from evenkeel.errors import InputError
from evenkeel.metrics import series
from evenkeel.run_paths import RunPaths

CHECK = 'mean(data["train/loss"], -2, 0) < 2'


def make_run(tmp_path: Path, losses: list[float], exit_status: int | None = 0) -> RunPaths:
    paths = RunPaths(tmp_path / "sft-x-1n1g-fsdp2tp1")
    paths.root.mkdir()
    if losses:
        series.save(paths.metrics, {"train/loss": dict(enumerate(losses, start=1))})
    attempt = run_record.open_attempt(paths.run_json, {})
    if exit_status is not None:
        run_record.close_attempt(paths.run_json, attempt, exit_status)
    return paths


def test_a_run_is_judged_from_its_files_and_the_judgement_is_kept(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [3.0, 2.0, 1.0])
    judged = judgement.judge_run(paths, [CHECK], max_steps=3)
    judgement.write(judged, paths)
    kept = judgement.read(paths)
    assert kept is not None
    assert kept["schema_version"] == 1
    assert kept["recipe"] == "sft-x-1n1g-fsdp2tp1"
    assert (kept["verdict"], kept["last_step"], kept["max_steps"]) == ("PASS", 3, 3)
    assert kept["checks"][0]["value"] == 1.5
    assert kept["checks"][0]["margin"] == 0.5


def test_without_a_limit_the_record_says_how_far_a_run_had_to_come(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [3.0, 1.5, 1.0], exit_status=run_record.TrainerExit.STOPPED)
    run_record.add(paths.run_json, {"max_steps": 200})
    judged = judgement.judge_run(paths, [CHECK], max_steps=None)
    assert (judged.verdict, judged.message) == (Verdict.INCOMPLETE, "step 3 of 200")


def test_the_kept_judgement_names_the_recipe_wherever_it_lies(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [3.0, 2.0, 1.0])
    run_record.add(paths.run_json, {"recipe": "sft-y-1n1g-fsdp2tp1"})
    judgement.write(judgement.judge_run(paths, [CHECK], max_steps=3), paths)
    kept = judgement.read(paths)
    assert kept is not None
    assert kept["recipe"] == "sft-y-1n1g-fsdp2tp1"


def test_a_run_without_metrics_is_judged_too(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [], exit_status=1)
    paths.run_log.write_text("\n".join(f"line {n}" for n in range(5000)))
    judged = judgement.judge_run(paths, [CHECK], max_steps=3)
    assert judged.verdict is Verdict.CRASHED
    assert judged.message.splitlines()[-1] == "line 4999"
    assert len(judged.message.splitlines()) == 1 + judgement.LOG_TAIL_LINES


def test_a_crash_is_told_by_the_traceback_of_the_last_start(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [3.0], exit_status=1)
    old = "Traceback (most recent call last):\n  File 'a'\nOldError: mended since\n"
    new = (
        "Traceback (most recent call last):\n  File 'b'\nValueError: no\ntorchrun: bye\n"
        + "=\n" * 50
    )
    paths.run_log.write_text(old + new + "=\n" * 50)
    attempt = run_record.open_attempt(paths.run_json, {"log_offset": len(old)})
    run_record.close_attempt(paths.run_json, attempt, 1)
    message = judgement.judge_run(paths, [CHECK], max_steps=3).message
    assert message.splitlines()[1:] == [
        "Traceback (most recent call last):",
        "  File 'b'",
        "ValueError: no",
    ]


def test_a_start_that_was_never_closed_says_nothing_of_its_end(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [3.0, 2.0], exit_status=None)
    assert judgement.judge_run(paths, [CHECK], max_steps=3).verdict is Verdict.INCOMPLETE


def test_the_last_start_decides(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [3.0, 2.0, 1.0], exit_status=-9)
    attempt = run_record.open_attempt(paths.run_json, {})
    run_record.close_attempt(paths.run_json, attempt, 0)
    assert judgement.judge_run(paths, [CHECK], max_steps=3).verdict is Verdict.PASS


def test_a_bare_metrics_file_is_judged_without_a_limit(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [3.0, 2.0, 1.0])
    assert judgement.judge_metrics(paths.metrics, [CHECK], None).verdict is Verdict.PASS
    assert judgement.judge_metrics(paths.metrics, [CHECK], 4).verdict is Verdict.INCOMPLETE


def test_the_kept_judgement_is_strict_json(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [3.0, math.nan, 1.0])
    judgement.write(judgement.judge_run(paths, [CHECK], 3), paths)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    kept = json.loads(paths.verdict.read_text(), parse_constant=refuse)
    assert kept["verdict"] == "NON_FINITE"


def test_a_judgement_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert judgement.read(paths) is None
    paths.verdict.write_text('{"verdict": "PA')
    assert judgement.read(paths) is None


@pytest.mark.parametrize(
    ("metrics", "last"),
    [
        ({}, 0),
        ({"lm loss": {10: 2.0, 20: 1.5}, "validation": {15: 1.0}}, 20),
        ({"train/reward": {7: 0.5}, "validation/loss": {9: 1.0}}, 7),
        ({"train/loss": {6: 0.5}, "train/reward": {7: 0.5}}, 6),
        ({"train/loss": {}, "loss": {3: 1.0}}, 3),
    ],
)
def test_the_last_step_of_files_that_name_their_metrics_in_another_way(
    metrics: dict[str, dict[int, float]], last: int
) -> None:
    assert judgement.last_training_step(metrics) == last


def test_a_foreign_file_is_held_to_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    series.save(path, {"loss": {step: 1 / step for step in range(1, 21)}})
    check = 'data["loss"]["20"] < 1'
    assert judgement.judge_metrics(path, [check], 20).verdict is Verdict.PASS
    assert judgement.judge_metrics(path, [check], 21).message == "step 20 of 21"


@pytest.mark.parametrize("text", ["{}", '{"loss": {}}'])
def test_a_file_without_values_passes_no_check(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(InputError, match="holds no value"):
        judgement.judge_metrics(path, ["1 < 2"], None)


def continued(paths: RunPaths, again_from: int, factor: float = 1.0) -> None:
    """Two starts: steps 1 to 60, then ``again_from`` to 120, its losses times ``factor``."""
    curve = {step: 2.0 + 1.0 / step + 0.01 * (step * 7919 % 13) / 13 for step in range(1, 121)}
    first = {step: value for step, value in curve.items() if step <= 60}
    second = {step: value * factor for step, value in curve.items() if step >= again_from}
    for number, part in enumerate((first, second)):
        events = [scalar("train/loss", step, value) for step, value in part.items()]
        write(paths.log_dir / f"events.out.tfevents.{1000 + number}.host.1.{number}", events)
    series.save(paths.metrics, {"train/loss": first | second})


@pytest.mark.parametrize(
    ("again_from", "factor", "verdict", "kinds"),
    [
        (61, 1.0, Verdict.PASS, []),
        (51, 1.0, Verdict.PASS, []),
        (51, 1.05, Verdict.REGRESSED, ["conflict", "jump"]),
        (61, 1.05, Verdict.REGRESSED, ["jump"]),
        (71, 1.0, Verdict.REGRESSED, ["missing"]),
    ],
)
def test_a_continued_run_is_checked_for_seams(
    tmp_path: Path, again_from: int, factor: float, verdict: Verdict, kinds: list[str]
) -> None:
    paths = make_run(tmp_path, [1.0])
    continued(paths, again_from, factor)
    judged = judgement.judge_run(paths, [CHECK.replace("< 2", "< 3")], max_steps=120)
    assert judged.verdict is verdict, judged.message
    judgement.write(judged, paths)
    kept = judgement.read(paths)
    assert kept is not None
    assert sorted(seam["kind"] for seam in kept["seams"]) == kinds
    if kinds:
        assert judged.message.startswith("train/loss: ")
        assert judged.message.endswith("1 check passed")


def test_a_seam_hides_no_worse_verdict(tmp_path: Path) -> None:
    paths = make_run(tmp_path, [1.0])
    continued(paths, 71)
    judged = judgement.judge_run(paths, [CHECK], max_steps=200)
    assert (judged.verdict, len(judged.seams)) == (Verdict.INCOMPLETE, 1)
