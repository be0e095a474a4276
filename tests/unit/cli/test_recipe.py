from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from evenkeel.cli.main import main

NAME = "sft-tiny-1n1g-fsdp2tp1"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tests/test_suites").mkdir(parents=True)
    recipes = tmp_path / "examples/configs/recipes/llm"
    recipes.mkdir(parents=True)
    (tmp_path / "examples/configs/sft.yaml").write_text("seed: 7\n", encoding="utf-8")
    (recipes / f"{NAME}.yaml").write_text(
        "defaults: ../../sft.yaml\nsft:\n  max_num_steps: 30\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_show_prints_yaml(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", NAME, "policy.optimizer.lr=1e-5"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"# {NAME}, fingerprint ")
    values = yaml.safe_load(printed)
    assert values["sft"]["max_num_steps"] == 30
    assert values["policy"]["optimizer"]["lr"] == 1e-5


def test_show_takes_paths_and_options_anywhere(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"examples/configs/recipes/llm/{NAME}.yaml"
    assert main(["recipe", "show", path, "--json", "seed=1", "~sft.max_num_steps"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["seed"], values["sft"]["max_num_steps"]) == (1, 100)
    assert main(["recipe", "show", "seed=1", "--json"]) == 2


def test_origin_names_the_place_of_each_value(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", "show", "--origin", NAME, "sft.val_period=5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    split = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert split["seed"] == ["7", "examples/configs/sft.yaml:1"]
    assert split["sft.max_num_steps"] == ["30", f"examples/configs/recipes/llm/{NAME}.yaml:3"]
    assert split["sft.val_period"] == ["5", "command line: sft.val_period=5"]
    assert split["policy.precision"] == ['"bfloat16"', "default"]
    assert len({line.index(split[line.split()[0]][0]) for line in lines[:3]}) == 1


def test_origin_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", NAME, "--origin", "--json", "--root", str(root)]) == 0
    places = json.loads(capsys.readouterr().out)
    assert places["seed"]["value"] == 7
    assert (places["seed"]["path"], places["seed"]["line"]) == ("examples/configs/sft.yaml", 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sft-tiny-1n1g"], f"did you mean '{NAME}'"),
        (["absent/x.yaml"], "there is no file absent/x.yaml"),
        ([NAME, "sft.max_num_step=3"], "did you mean 'max_num_steps'?"),
        ([NAME, "seed=x"], "command line: 'seed=x': seed: wants int, got text 'x'"),
    ],
)
def test_bad_input_exits_2_with_the_mend(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["recipe", "show", *arguments]) == 2
    assert words in capsys.readouterr().err
