from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from evenkeel.launch.request import (
    ExecutorKind,
    JobShape,
    LaunchOptions,
    Submission,
    options_from_json,
    options_to_json,
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


def test_options_survive_json() -> None:
    options = submission().options
    assert options_from_json(json.loads(json.dumps(options_to_json(options)))) == options


def test_results_lie_beside_the_driver() -> None:
    assert submission().run_dir == Path(
        "/repo/code_snapshots/.trees/x/tests/test_suites/llm/sft-a-1n8g-fsdp2tp1"
    )


def test_a_run_beside_it_has_further_arguments_and_folders_of_its_own() -> None:
    own = submission()
    beside = own.beside("seed1001", ["seed=1001"])
    assert beside.label == "sft-a-1n8g-fsdp2tp1.seed1001"
    assert beside.run_dir == own.run_dir.with_name("sft-a-1n8g-fsdp2tp1.seed1001")
    assert beside.launch_dir == own.launch_dir / "seed1001"
    assert beside.options.script_args == ("a b", "++x='$y'\n", "seed=1001")
    assert (beside.first_run, beside.runs) == (1, 2)
    assert (own.label, own.variant) == ("sft-a-1n8g-fsdp2tp1", "")
