"""``evenkeel driver``, as ``common.env`` calls it: what there is to say without training."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.cli.main import main

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("is_file", [False, True])
def test_judging_no_run_is_refused_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_file: bool
) -> None:
    run_dir = tmp_path / "sft-x"
    if is_file:
        run_dir.touch()
    check = 'max(data["train/loss"]) < 7'
    assert main(["driver", "judge", "--run-dir", str(run_dir), "--max-steps", "3", check]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == (
        "",
        f"evenkeel: error: {run_dir}: no such folder, so there is no run of sft-x to judge\n"
        "  fix: train it first, which its driver does, or name another folder with --run-dir\n",
    )
    assert list(tmp_path.iterdir()) == ([run_dir] if is_file else [])


def test_a_run_that_left_nothing_is_incomplete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["driver", "judge", "--run-dir", str(tmp_path), "--max-steps", "3"]) == 1
    assert f"INCOMPLETE {tmp_path.name}: step 0 of 3" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["verdict.json"]


@pytest.mark.parametrize("key", ["num_nodes", "gpus_per_node"])
def test_what_the_config_block_decides_is_not_overridden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    recipe = ROOT / "examples/configs/recipes/llm/sft-llama-0.9m-1n1g-fsdp2tp1.yaml"
    words = ["--run-dir", str(tmp_path / "run"), "--config", str(recipe), "--max-steps", "3"]
    words += [
        "--steps-per-run",
        "3",
        "--num-nodes",
        "1",
        "--gpus-per-node",
        "1",
        "--script",
        "examples/run_sft.py",
    ]
    assert main(["driver", "train", *words, f"cluster.{key}=2"]) == 2
    told = capsys.readouterr().err
    assert f"cluster.{key} is 2, and {key.upper()} in the CONFIG block 1" in told
    assert not (tmp_path / "run").exists()
