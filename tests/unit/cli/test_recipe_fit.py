from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenkeel.cli.main import main

ROOT = Path(__file__).parents[3]
NAME = "sft-llama3.1-8b-1n8g-fsdp2tp2sp"
TOO_MUCH = "sft.val_micro_batch_size=16"


@pytest.fixture(autouse=True)
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_one_recipe_as_a_table_of_phases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "fit", NAME]) == 0
    printed = capsys.readouterr().out
    assert "fsdp2 bfloat16, dp 4 x tp 2" in printed
    for part in ("weights", "optimizer", "gradients", "activations", "logits", "overhead"):
        assert f"\n {part} " in printed
    assert f"fits {NAME}: " in printed
    assert "\x1b[" not in printed


def test_what_does_not_fit_exits_1_and_says_what_would_mend_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipe", "fit", NAME, TOO_MUCH]) == 1
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "fits with sft.val_micro_batch_size=8" in printed
    assert "fits as it is on h200-141gb" in printed


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "fit", "--json", NAME, TOO_MUCH, "--gpu", "h200-141gb"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["recipes"]
    (stage,) = found["stages"]
    assert found["verdict"] == "fits"
    assert found["mends"] == []
    phase = stage["phases"][stage["peak_phase"]]
    assert phase["total_gib"] == found["peak_gib"]
    shares = [size for part, size in phase.items() if part != "total_gib"]
    assert sum(shares) == pytest.approx(found["peak_gib"], abs=0.01)


def test_several_recipes_are_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "fit", NAME, "sft-llama3.2-1b-1n8g-fsdp2tp1", TOO_MUCH]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.rstrip().endswith(("fits", "does not fit")) for line in lines) == 2


def test_a_path_and_the_memory_of_a_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / f"examples/configs/recipes/llm/{NAME}.yaml"
    assert main(["recipe", "fit", str(path), "--memory", "16"]) == 1
    assert "of 16.0 GiB" in capsys.readouterr().out


def test_a_part_of_a_card_is_told_from_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "fit", NAME, "--gpu", "h100-80gb", "--memory", "48"]) == 1
    printed = capsys.readouterr().out
    assert "8 x h100-80gb with 48 GiB\n" in printed
    assert "48.4 of 48.0 GiB" in printed
    assert "fits as it is on a whole h100-80gb: 61%" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no recipe is named"),
        ([NAME, "--gpu", "h1000"], "--gpu is 'h1000'"),
        ([NAME, "policy.model_config.model_type=gpt2"], "model_type is 'gpt2'"),
        ([NAME, "policy.parallel.tensor_parallel_size=3"], "does not divide the 8 that train"),
        ([NAME, "~policy.model_config", "policy.model_name=my/model"], "shape is not known here"),
        ([NAME, "policy.parallel.context_parallel_size=2"], "the fsdp2 backend cannot do that"),
        ([NAME, "policy.precision=fp8"], "policy.precision is fp8, which this version does not"),
        (["--suite", "nightli"], "did you mean 'nightly'"),
    ],
)
def test_bad_input_exits_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", "fit", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "override",
    [
        "policy.parallel.tensor_parallel_size=3",
        "policy.parallel.context_parallel_size=2",
        "policy.precision=fp8",
    ],
)
def test_a_file_is_not_blamed_for_what_an_override_asks(
    override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", "fit", NAME, override]) == 2
    assert f"{NAME}.yaml with {override}: policy." in capsys.readouterr().err


def test_one_bad_recipe_among_several_is_told_beside_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipe", "fit", NAME, "sft-nowhere"]) == 2
    printed = capsys.readouterr().out
    assert NAME in printed
    assert "error: no recipe 'sft-nowhere'" in printed


def test_every_recipe_of_the_gpu_suites_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--suite", "nightly", "--suite", "release", "--suite", "disabled", "--json"]
    main(["recipe", "fit", *arguments])
    answer = json.loads(capsys.readouterr().out)
    assert answer["errors"] == []
    assert len(answer["recipes"]) > 40


def test_a_recipe_that_is_not_trained_yet_is_counted_with_its_suite_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "sft-llama3.1-8b-1n8g-megatrontp2-fp8"
    assert main(["recipe", "fit", name]) == 2
    assert "policy.precision is fp8" in capsys.readouterr().err
    main(["recipe", "fit", "--suite", "disabled"])
    assert f" {name} " in capsys.readouterr().out.replace("\n", " ")
