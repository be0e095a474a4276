from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

from evenkeel.errors import InputError
from evenkeel.launch.request import (
    ExecutorKind,
    JobShape,
    LaunchOptions,
    Submission,
)


def submission() -> Submission:
    return Submission(
        launch_id="20260102-030405-abcdef",
        name="sft-a-1n8g-fsdp2tp1",
        driver=PurePosixPath("tests/test_suites/llm/sft-a-1n8g-fsdp2tp1.sh"),
        tree=Path("/repo/code_snapshots/.trees/x"),
        launch_dir=Path("/repo/code_snapshots/.launches/y/sft-a-1n8g-fsdp2tp1"),
        shape=JobShape(1, 8, 2, 30, 100, 50, comment='{"a": "b"}'),
        options=LaunchOptions(
            executor=ExecutorKind.LOCAL,
            account="a b",
            mounts=("/x:/x", "/y z:/y"),
            environment=(("A", "$HOME\n'\""), ("B", "")),
            secret_names=("HF_TOKEN",),
            script_args=("a b", "++x='$y'\n"),
            segment_size=4,
        ),
        commit="0" * 40,
        runs=2,
    )


def test_a_submission_survives_json() -> None:
    there = json.loads(json.dumps(submission().to_json()))
    assert Submission.from_json(there) == submission()


def test_results_lie_beside_the_driver() -> None:
    assert submission().run_dir == Path(
        "/repo/code_snapshots/.trees/x/tests/test_suites/llm/sft-a-1n8g-fsdp2tp1"
    )


def test_each_run_has_its_own_token() -> None:
    assert len({submission().token(run) for run in range(1, 9)}) == 8


def test_a_record_without_a_field_is_named() -> None:
    value = submission().to_json()
    del value["shape"]
    with pytest.raises(InputError, match="shape"):
        Submission.from_json(value)
