"""Mistakes in trees of our own schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evenkeel.recipes.config import load
from evenkeel.recipes.fingerprint import fingerprint
from evenkeel.recipes.lint.engine import Selection, lint

sys.path.insert(0, str(Path(__file__).parent))

from own_tree import NAME, RECIPE, SCRIPT, make_own_tree, replace, write

NIGHTLY = "tests/test_suites/nightly.txt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_own_tree(tmp_path)


def found(root: Path, *select: str) -> list[tuple[str, str, int]]:
    report = lint(root, None, Selection(select), jobs=1)
    return [(it.code, it.path, it.line) for it in report.findings]


def test_a_good_recipe_is_silent(root: Path) -> None:
    assert found(root) == []


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        (RECIPE, "lr: 2e-5", "learning_rate: 2e-5", ("EK404", RECIPE, 9)),
        (RECIPE, "lr: 2e-5", "lr: fast", ("EK404", RECIPE, 9)),
        (RECIPE, "tensor_parallel_size: 2", "tensor_parallel_size: 4", ("EK205", RECIPE, 7)),
        (RECIPE, "  optimizer", "    context_parallel_size: 2\n  optimizer", ("EK205", RECIPE, 8)),
        (RECIPE, "  parallel:", "  backend: megatron\n  parallel:", ("EK206", RECIPE, 6)),
        (RECIPE, "num_nodes: 2", "num_nodes: 4", ("EK203", RECIPE, 15)),
        (RECIPE, "num_nodes: 2", "num_nodes: 2\n  gpus_per_node: 4", ("EK204", RECIPE, 16)),
        (SCRIPT, "NUM_NODES=2", "NUM_NODES=2\nGPUS_PER_NODE=4", ("EK204", SCRIPT, 6)),
        (RECIPE, "val_period: 50", "val_period: 0", ("EK405", RECIPE, 11)),
        (SCRIPT, '["250"] < 1.0', '["240"] < 1.0', ("EK506", SCRIPT, 18)),
        (SCRIPT, '["250"] < 1.0', '["300"] < 1.0', ("EK505", SCRIPT, 18)),
        (SCRIPT, 'mean(data["train/loss"], -10, 0) < 0.9', 'data["train/loss"]["250"] < 0.9',
         ("EK504", SCRIPT, 17)),
        (SCRIPT, '-10, 0) < 0.9', '-10, 0) > -1', ("EK502", SCRIPT, 17)),
        (SCRIPT, "validation/loss", "validation/los", ("EK507", SCRIPT, 18)),
        (SCRIPT, "validation/loss", "train/reward", ("EK507", SCRIPT, 18)),
        (SCRIPT, "< 1.0'", "< 1.0' 'mean(data[\"timing/train/total_step_time\"]) < 9'",
         ("EK508", SCRIPT, 18)),
        (SCRIPT, "NUM_MINUTES=60", "NUM_MINUTES=60\nNUM_HOURS=1", ("EK303", SCRIPT, 10)),
        (NIGHTLY, "gpus_per_node: 8", "gpus_per_node: 4", ("EK110", NIGHTLY, 2)),
        (NIGHTLY, "gpus_per_node: 8", "device: cuda\n#: max_minutes: 30", ("EK305", SCRIPT, 9)),
        (NIGHTLY, "gpus_per_node: 8", "gpus: 8", ("EK109", NIGHTLY, 1)),
    ],
)  # fmt: skip
def test_a_mistake_is_the_only_finding(
    root: Path, path: str, old: str, new: str, expected: tuple[str, str, int]
) -> None:
    replace(root, path, old, new)
    findings = found(root)
    assert expected in findings
    assert {code for code, _, _ in findings} == {expected[0]}


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ("pipeline_parallel_size: 4", []),
        ("pipeline_parallel_size: 8\n    num_layers_in_first_pipeline_stage: 4", []),
        ("pipeline_parallel_size: 8\n    num_layers_in_first_pipeline_stage: 3", ["EK407"]),
        ("pipeline_parallel_size: 8\n    num_layers_in_last_pipeline_stage: 3", ["EK407"]),
        (
            "pipeline_parallel_size: 8\n    num_layers_in_last_pipeline_stage: 1"
            "\n    num_layers_in_first_pipeline_stage: 1",
            [],
        ),
        (
            "pipeline_parallel_size: 2\n    num_layers_in_last_pipeline_stage: 20"
            "\n    num_layers_in_first_pipeline_stage: 10",
            ["EK407"],
        ),
    ],
)
def test_layers_are_shared_by_the_stages(root: Path, stages: str, expected: list[str]) -> None:
    replace(root, RECIPE, "tensor_parallel_size: 2", f"tensor_parallel_size: 2\n    {stages}")
    assert [code for code, _, _ in found(root, "EK407")] == expected


def test_the_device_of_a_recipe_is_that_of_its_suite(root: Path) -> None:
    replace(root, RECIPE, "num_nodes: 2", "num_nodes: 2\n  device: cpu")
    replace(root, NIGHTLY, "gpus_per_node: 8", "device: cuda")
    assert found(root) == [("EK110", NIGHTLY, 2)]


def test_names_keep_to_the_grammar_and_the_vocabulary(root: Path) -> None:
    text = (root / RECIPE).read_text(encoding="utf-8")
    driver = (root / SCRIPT).read_text(encoding="utf-8")
    names = ["sft-llama3.1-8b-2n8g", "sft-llama3.1-8b-2n8g-fsdp2tp2-frobnicated"]
    for name in names:
        write(root, f"examples/configs/recipes/llm/{name}.yaml", text)
        write(root, f"tests/test_suites/llm/{name}.sh", driver)
        replace(root, NIGHTLY, f"{SCRIPT}\n", f"{SCRIPT}\nllm/{name}.sh\n")
    assert [code for code, _, _ in found(root, "EK20")] == ["EK202", "EK201"]


def test_an_exception_is_legal_once_it_is_declared(root: Path) -> None:
    name = "sft-llama3.1-8b-8K"
    write(root, f"examples/configs/recipes/llm/{name}.yaml", (root / RECIPE).read_text())
    driver = f"tests/test_suites/llm/{name}.sh"
    write(root, driver, (root / SCRIPT).read_text())
    replace(root, NIGHTLY, f"{SCRIPT}\n", f"{SCRIPT}\nllm/{name}.sh\n")
    assert found(root) == [("EK201", driver, 1)]
    declaration = "# evenkeel: name-exception: the name says the context; hardware: 2n8g\n"
    replace(root, driver, "# ===== BEGIN", f"{declaration}# ===== BEGIN")
    assert found(root) == []
    replace(root, driver, "hardware: 2n8g", "hardware: 4n8g")
    assert [(code, path) for code, path, _ in found(root)] == [
        ("EK203", driver),
        ("EK203", f"examples/configs/recipes/llm/{name}.yaml"),
    ][::-1]


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def committed(root: Path) -> Path:
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


@pytest.mark.parametrize(
    ("old", "new", "is_found"),
    [
        ("lr: 2e-5", "lr: 3e-5", True),
        ("lr: 2e-5", "lr: 2e-5\n  precision: float32", True),
        ("sft:", "seed: 7\nsft:", True),
        ("lr: 2e-5", "lr: 0.00002", False),
        ("sft:", "checkpointing:\n  save_period: 10\nsft:", False),
        ("  optimizer", "  activation_checkpointing: true\n  optimizer", False),
    ],
)
def test_what_shapes_the_curve_needs_a_new_version(
    committed: Path, old: str, new: str, is_found: bool
) -> None:
    replace(committed, RECIPE, old, new)
    findings = lint(committed, None, Selection(["EK410"]), jobs=1).findings
    assert [(it.code, it.path) for it in findings] == ([("EK410", RECIPE)] if is_found else [])


def test_the_difference_is_shown_with_its_line_and_the_next_version(committed: Path) -> None:
    replace(committed, RECIPE, "lr: 2e-5", "lr: 3e-5")
    (finding,) = lint(committed, None, Selection(["EK410"]), jobs=1).findings
    assert "policy.optimizer.lr: 2e-05 → 3e-05" in finding.message
    assert finding.line == 9
    assert f"{NAME}.v2" in finding.fix


def test_a_changed_base_concerns_its_heirs(committed: Path) -> None:
    base = committed / "examples/configs/sft.yaml"
    base.write_text(base.read_text(encoding="utf-8") + "\nseed: 7\n", encoding="utf-8")
    assert found(committed, "EK410") == [("EK410", RECIPE, 1)]
    (finding,) = lint(committed, ["examples/configs/sft.yaml"], jobs=1).findings
    assert (finding.code, finding.path) == ("EK410", "examples/configs/sft.yaml")
    assert NAME in finding.message
    assert "seed: 42 → 7" in finding.message


def test_a_branch_is_compared_with_where_it_left_main(committed: Path) -> None:
    git(committed, "checkout", "-q", "-b", "work")
    replace(committed, RECIPE, "lr: 2e-5", "lr: 3e-5")
    git(committed, "commit", "-q", "-a", "-m", "faster")
    assert found(committed, "EK410") == [("EK410", RECIPE, 9)]
    report = lint(committed, None, Selection(["EK410"]), base="HEAD", jobs=1)
    assert report.findings == ()


def test_a_new_version_may_differ(committed: Path) -> None:
    for path in (RECIPE, SCRIPT):
        folder, name = path.rsplit("/", 1)
        git(committed, "mv", path, f"{folder}/{name.replace('tp2', 'tp2.v2')}")
    replace(committed, NIGHTLY, "fsdp2tp2", "fsdp2tp2.v2")
    replace(committed, RECIPE.replace("fsdp2tp2", "fsdp2tp2.v2"), "lr: 2e-5", "lr: 3e-5")
    assert found(committed) == []


def test_a_baseline_of_other_settings_is_named(root: Path) -> None:
    values = load(root / RECIPE).values
    current = fingerprint({key: value for key, value in values.items() if key != "seed"})
    path = f"tests/baselines/llm/{NAME}/cpu.json"
    for content, expected in (
        ({"fingerprint": "0" * 64}, [("EK411", RECIPE, 1)]),
        ({"fingerprint": "0" * 64, "retired": {"reason": "old"}}, []),
        ({"fingerprint": None}, []),
        ({"fingerprint": current}, []),
    ):
        write(root, path, json.dumps({"schema_version": 1, **content}))
        assert found(root) == expected
    replace(root, RECIPE, "sft:", "seed: 7\nsft:")
    assert found(root) == []
    replace(root, RECIPE, "lr: 2e-5", "lr: 3e-5")
    assert found(root) == [("EK411", RECIPE, 1)]


def single_step(root: Path, before: str = "", behind: str = "") -> None:
    replace(root, SCRIPT, "judge \\", f"{before}judge \\")
    replace(root, SCRIPT, 'mean(data["train/loss"], -10, 0)', 'data["train/loss"]["250"]')
    replace(root, SCRIPT, "#!/usr/bin/env bash", f"#!/usr/bin/env bash{behind}")


def test_a_waiver_above_a_command_covers_all_its_lines(root: Path) -> None:
    single_step(root, "# evenkeel: allow EK504: the last step is what users see\n")
    assert found(root) == []


def test_a_waiver_at_the_top_covers_the_file(root: Path) -> None:
    single_step(root, behind="\n# evenkeel: allow EK504, EK508: history")
    assert found(root) == [("EK902", SCRIPT, 2)]


def test_a_waiver_without_reason_waives_nothing(root: Path) -> None:
    single_step(root, "# evenkeel: allow EK504\n")
    assert [code for code, _, _ in found(root)] == ["EK901", "EK504"]


def test_a_waiver_at_the_end_of_a_line_covers_that_line(root: Path) -> None:
    replace(root, RECIPE, "val_period: 50", "val_period: 0  # evenkeel: allow EK405: said aloud")
    assert found(root) == []
    replace(root, RECIPE, "val_period: 0", "val_period: 1")
    assert found(root) == [("EK902", RECIPE, 12)]


def test_waivers_without_effect_or_of_no_rule_are_named(root: Path) -> None:
    replace(root, RECIPE, "sft:", "# evenkeel: allow EK405: once\nsft:")
    replace(root, SCRIPT, "train", "# evenkeel: allow EK999: what\ntrain")
    assert sorted(found(root)) == [("EK902", RECIPE, 11), ("EK903", SCRIPT, 14)]


def test_a_group_has_members_that_train_one_thing(root: Path) -> None:
    replace(root, RECIPE, "cluster:", "equivalence:\n  group: g\n\ncluster:")
    assert found(root, "EK412") == [("EK412", RECIPE, 15)]  # alone
    other = f"{Path(RECIPE).parent}/sft-llama3.1-8b-1n8g-fsdp2tp2.yaml"
    text = f"defaults: {NAME}.yaml\ncluster:\n  num_nodes: 1\n"
    write(root, other, text)
    assert found(root, "EK412") == []
    write(root, other, f"{text}seed: 7\n")
    # paths are sorted: the new one comes first, so the older one is said to differ from it
    assert found(root, "EK412") == [("EK412", RECIPE, 15)]
    write(root, other, f"{text}seed: 7\nequivalence: null\n")
    assert found(root, "EK412") == [("EK412", RECIPE, 15)]
