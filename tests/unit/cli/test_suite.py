"""``evenkeel suite``: tables, filters and JSON over a small tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenkeel.cli.main import main

BLOCK = """\
# ===== BEGIN CONFIG =====
NUM_NODES={nodes}
STEPS_PER_RUN=10
MAX_STEPS=20
NUM_RUNS=2
NUM_MINUTES={minutes}
# ===== END CONFIG =====
"""
SMALL, LARGE = "sft-llama3.2-1b-1n8g-fsdp2tp1", "grpo-qwen3-8b-4n8g-megatrontp2.v2"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    llm = tmp_path / "tests" / "test_suites" / "llm"
    llm.mkdir(parents=True)
    (llm / f"{SMALL}.sh").write_text(BLOCK.format(nodes=1, minutes=15), encoding="utf-8")
    (llm / f"{LARGE}.sh").write_text(BLOCK.format(nodes=4, minutes=10), encoding="utf-8")
    (llm / SMALL).mkdir()
    (llm / SMALL / "verdict.json").write_text('{"verdict": "PASS"}', encoding="utf-8")
    (llm.parent / "nightly.txt").write_text(
        f"#: gpus_per_node: 8\n#: budget_gpu_hours_per_night: 40\nllm/{SMALL}.sh\n"
        f"tests/test_suites/llm/{LARGE}.sh\n",
        encoding="utf-8",
    )
    return tmp_path


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip(" ─")]


def test_show_lists_recipes_with_their_hours(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "show", "nightly", "--root", str(tree)]) == 0
    assert lines(capsys.readouterr().out) == [
        "suite recipe allocation GPU-hours last",
        f"nightly {SMALL} 1n8g 4 PASS",
        f"nightly {LARGE} 4n8g 10.67 -",
        "2 recipes, 14.67 GPU-hours",
    ]


def test_hours_for_machines_are_exact(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("show", "list"):
        assert main(["suite", action, "nightly", "--json", "--root", str(tree)]) == 0
        assert "14.666666666666666" in capsys.readouterr().out


def test_list_shows_suites(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suite", "list", "--root", str(tree)]) == 0
    assert lines(capsys.readouterr().out) == [
        "suite recipes GPU-hours budget a night hardware last",
        "nightly 2 14.67 40 8 per node 1 PASS",
    ]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["--algo", "grpo", "--backend", "megatron", "--max-gpu-hours", "50"], [LARGE]),
        (["--backend", "fsdp2"], [SMALL]),
        (["--model", "LLAMA"], [SMALL]),
        (["--max-gpu-hours", "32/3"], [SMALL, LARGE]),
        (["--max-gpu-hours", "10.66"], [SMALL]),
        (["--verdict", "pass"], [SMALL]),
        (["--algo", "vlm_grpo"], []),
    ],
)
def test_filters(
    tree: Path, capsys: pytest.CaptureFixture[str], filters: list[str], names: list[str]
) -> None:
    assert main(["suite", "show", *filters, "--json", "--root", str(tree)]) == 0
    recipes = json.loads(capsys.readouterr().out)["recipes"]
    assert [recipe["name"] for recipe in recipes] == names


def test_a_name_without_a_strategy_is_shown_and_found(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = "grpo-qwen3-32b-4n4g"
    llm = tree / "tests" / "test_suites" / "llm"
    (llm / f"{short}.sh").write_text(BLOCK.format(nodes=4, minutes=30), encoding="utf-8")
    (llm.parent / "performance.txt").write_text(f"llm/{short}.sh\n", encoding="utf-8")
    assert main(["suite", "show", "performance", "--algo", "grpo", "--root", str(tree)]) == 0
    assert lines(capsys.readouterr().out) == [
        "suite recipe allocation GPU-hours last",
        f"performance {short} 4n8g 32 -",
        "1 recipe, 32 GPU-hours",
    ]


def test_a_bound_that_is_no_number_of_hours_is_wrong_usage(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("abc", "1/0", "-3"):
        with pytest.raises(SystemExit) as ended:
            main(["suite", "show", f"--max-gpu-hours={text}", "--root", str(tree)])
        assert ended.value.code == 2
        assert f"{text!r} is no number of hours" in capsys.readouterr().err


def test_what_cannot_be_read_is_named(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = tree / "tests" / "test_suites" / "nightly.txt"
    listing.write_text(f"llm/gone-x-1n8g-tp1.sh\nllm/{SMALL}.sh\n", encoding="utf-8")
    driver = tree / "tests" / "test_suites" / "llm" / f"{SMALL}.sh"
    driver.write_text("true\n", encoding="utf-8")
    assert main(["suite", "show", "--root", str(tree)]) == 1
    text = capsys.readouterr().out
    assert "llm/gone-x-1n8g-tp1.sh: no such file" in text
    assert f"llm/{SMALL}.sh: no CONFIG block" in text
    assert "2 recipes, 0 GPU-hours" in text


def test_an_unknown_suite_and_a_root_without_suites_are_bad_input(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "show", "nigtly", "--root", str(tree)]) == 2
    assert "did you mean 'nightly'?" in capsys.readouterr().err
    assert main(["suite", "list", "--root", str(tree / "tests" / "test_suites" / "llm")]) == 2


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (["--backend", "fsdp3"], ["--backend 'fsdp3'", "did you mean 'fsdp", "fsdp2, megatron"]),
        (["--algo", "grop"], ["--algo 'grop'", "did you mean 'grpo'", "sft", "vlm_grpo"]),
        (["--verdict", "passed"], ["--verdict 'PASSED'", "did you mean 'PASS'", "REGRESSED"]),
    ],
)
def test_a_filter_that_nothing_can_pass_is_refused_with_the_valid_ones(
    tree: Path, capsys: pytest.CaptureFixture[str], filters: list[str], message: list[str]
) -> None:
    assert main(["suite", "show", *filters, "--root", str(tree)]) == 2
    error = capsys.readouterr().err
    assert [words for words in message if words not in error] == []


def test_an_algorithm_that_only_a_recipe_knows_is_a_filter(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "unheardof-llama3.2-1b-1n8g-fsdp2tp1"
    suites = tree / "tests" / "test_suites"
    (suites / "llm" / f"{own}.sh").write_text(BLOCK.format(nodes=1, minutes=15), encoding="utf-8")
    (suites / "own.txt").write_text(f"llm/{own}.sh\n", encoding="utf-8")
    assert main(["suite", "show", "--algo", "unheardof", "--root", str(tree)]) == 0
    assert "1 recipe, 4 GPU-hours" in capsys.readouterr().out
