"""``evenkeel name`` as it is called: what it prints, and with which exit status."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from evenkeel.cli.main import main

FULL = "grpo-qwen2.5-7b-instruct-4n8g-fsdp2tp4sp-fp8-long.v3"
EXCEPTION = "grpo-deepscaler-1.5b-8K"


@pytest.fixture(autouse=True)
def outside_any_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["name", *arguments])
    return status, capsys.readouterr().out


def test_parse_prints_the_fields_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = output(capsys, "parse", FULL, "--json")
    fields = json.loads(text)
    assert status == 0
    assert {key: fields[key] for key in ("name", "algo", "vlm", "model", "version", "long")} == {
        "name": FULL,
        "algo": "grpo",
        "vlm": False,
        "model": "qwen2.5-7b-instruct",
        "version": 3,
        "long": True,
    }
    assert (fields["num_nodes"], fields["gpus_per_node"], fields["modifiers"]) == (4, 8, ["fp8"])
    stated = {key: value for key, value in fields["strategy"].items() if value is not None}
    assert stated == {"backend": "fsdp2", "tp": 4, "sp": True}


def test_several_names_make_a_list_and_paths_are_names(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [f"tests/test_suites/llm/{FULL}.sh", f"examples/configs/recipes/llm/{FULL}.yaml"]
    status, text = output(capsys, "parse", *paths, "--json")
    assert status == 0
    assert [fields["name"] for fields in json.loads(text)] == [FULL, FULL]


def test_parse_prints_fields_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "parse", FULL) == (
        0,
        f"{FULL}\n"
        "  algo          grpo\n"
        "  vlm           no\n"
        "  model         qwen2.5-7b-instruct\n"
        "  num_nodes     4\n"
        "  gpus_per_node 8\n"
        "  strategy      backend=fsdp2 tp=4 sp=yes\n"
        "  modifiers     fp8\n"
        "  long          yes\n"
        "  version       3\n"
        "  context       -\n",
    )


@pytest.mark.parametrize("action", ["parse", "format", "explain"])
def test_an_illegal_name_is_bad_input(capsys: pytest.CaptureFixture[str], action: str) -> None:
    assert main(["name", action, "sft-llama3-8b-8g4n-tp2"]) == 2
    error = capsys.readouterr().err
    assert "at position 15; expected the allocation" in error
    assert "the nearest legal name is sft-llama3-8b-4n8g-tp2" in error


@pytest.mark.parametrize(
    "name", [FULL, EXCEPTION, "sft-m-1n8g-fp8-long-megatron-tp2pp2", "sft-m-1n8g-fsdp8ep8"]
)
def test_format_gives_back_what_parse_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert output(capsys, "format", name) == (0, f"{name}\n")
    _, parsed = output(capsys, "parse", name, "--json")
    monkeypatch.setattr("sys.stdin", io.StringIO(parsed))
    assert output(capsys, "format", "-") == (0, f"{name}\n")


def test_format_writes_fields_that_were_changed(capsys: pytest.CaptureFixture[str]) -> None:
    _, parsed = output(capsys, "parse", FULL, "--json")
    fields = {**json.loads(parsed), "num_nodes": 8, "version": None}
    assert output(capsys, "format", json.dumps(fields)) == (
        0,
        "grpo-qwen2.5-7b-instruct-8n8g-fsdp2tp4sp-fp8-long\n",
    )


@pytest.mark.parametrize("text", ["{", '{"algo": "sft"}', '{"algo":"sft","model":3,"strategy":7}'])
def test_format_refuses_what_is_no_name(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(["name", "format", text]) == 2
    assert "name parse --json" in capsys.readouterr().err


def test_check_shows_the_place_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["sft-llama3-8b-8g4n-tp2", FULL, "grpo-llama3-8b-1n8g-tp3-acktckpt-novelty"]
    assert output(capsys, "check", *names) == (
        1,
        "sft-llama3-8b-8g4n-tp2\n"
        "              ^ '8g4n' is no allocation; "
        "expected the allocation <nodes>n<gpus>g, such as 1n8g\n"
        "  fix: the nearest legal name is sft-llama3-8b-4n8g-tp2\n"
        f"{FULL}: legal\n"
        "grpo-llama3-8b-1n8g-tp3-acktckpt-novelty\n"
        "  unknown modifier 'acktckpt' (did you mean 'actckpt'?)\n"
        "  fix: correct it, or add it to [modifiers] of tests/test_suites/vocabulary.toml\n"
        "  note: unknown modifier 'novelty'\n"
        "  fix: correct it, or add it to [modifiers] of tests/test_suites/vocabulary.toml\n"
        "  tp3 = 3 does not divide 8 GPUs\n"
        "  fix: correct the sizes or the allocation\n",
    )


def test_a_new_word_alone_is_only_noted(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = output(capsys, "check", "sft-llama3-8b-1n8g-tp2-novelty", "--json")
    (row,) = json.loads(text)["names"]
    assert (status, row["legal"]) == (0, True)
    assert [finding["severity"] for finding in row["findings"]] == ["note"]


def test_an_exception_is_legal_once_its_driver_declares_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, text = output(capsys, "check", EXCEPTION)
    assert status == 1
    assert "# evenkeel: name-exception: <reason>; hardware: <nodes>n<gpus>g" in text
    driver = tmp_path / "tests" / "test_suites" / "llm" / f"{EXCEPTION}.sh"
    driver.parent.mkdir(parents=True)
    driver.write_text(
        "# evenkeel: name-exception: a curriculum; hardware: 2n8g\n", encoding="utf-8"
    )
    assert output(capsys, "check", EXCEPTION) == (0, f"{EXCEPTION}: legal\n")
    assert output(capsys, "check", str(driver))[0] == 0
    assert "2 nodes of 8 GPUs" in output(capsys, "explain", EXCEPTION)[1]


def test_the_words_of_the_tree_count(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    suites = tmp_path / "elsewhere" / "tests" / "test_suites"
    suites.mkdir(parents=True)
    (suites / "vocabulary.toml").write_text(
        '[models]\nowl = "Owl"\n[strategies]\nflux = "Flux"\n', encoding="utf-8"
    )
    root = ["--root", str(tmp_path / "elsewhere")]
    assert output(capsys, "check", "sft-owl-8b-1n8g-fluxtp2", *root)[0] == 0
    assert output(capsys, "check", "sft-owl-8b-1n8g-fluxtp2")[0] == 1


@pytest.mark.parametrize("text", ["", "-", "a/b/", "x\0y", "é", "a" * 10_000, "../" * 50 + "x.sh"])
def test_no_argument_crashes_it(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(["name", "check", f"./{text}" if text.startswith("-") else text]) == 1
    assert "fix: the nearest legal name is" in capsys.readouterr().out
