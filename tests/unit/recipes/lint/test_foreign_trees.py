"""Another team's tree: what is wrong is named, and nothing else."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evenkeel.recipes.lint import rules_structure
from evenkeel.recipes.lint.engine import lint

sys.path.insert(0, str(Path(__file__).parent))

from foreign_tree import (
    CHECKS,
    PLANT_MODEL,
    ForeignTree,
    add_correct_recipes,
    cluster,
    config,
    policy,
)

L = "tests/test_suites/llm"
R = "examples/configs/recipes/llm"


@pytest.fixture(autouse=True)
def _today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_structure, "today", lambda: datetime.date(2026, 11, 20))


def found(root: Path) -> list[tuple[str, str, int]]:
    return [(it.code, it.path, it.line) for it in lint(root, jobs=1).findings]


def test_a_correct_tree_raises_no_alarm(tmp_path: Path) -> None:
    tree = ForeignTree(tmp_path)
    add_correct_recipes(tree)
    tree.finish()
    report = lint(tmp_path, jobs=1)
    assert [str(finding) for finding in report.findings] == []
    assert (report.num_drivers, report.num_recipes, report.num_suites) == (77, 77, 5)


NAME = "grpo-mistral-7b-4n8g-fsdp2tp2"
GOOD = policy("dtensor_cfg:", "  tensor_parallel_size: 2") + cluster(4, 8)


def wrong_nodes_in_recipe(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD.replace("num_nodes: 4", "num_nodes: 2"), block=config(4))


def wrong_nodes_in_block(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(2))


def gpus_left_at_the_base(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD.replace("  gpus_per_node: 8\n", ""), block=config(4))


def override_of_another_node_count(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), overrides=("cluster.num_nodes=2",))


def wrong_tensor_size(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD.replace("size: 2", "size: 4"), block=config(4))


def other_backend(tree: ForeignTree) -> None:
    tree.add(NAME, cluster(4, 8), block=config(4), base="grpo_math_1B_megatron.yaml")


def two_backends(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD + "  # both\n", block=config(4))
    recipe = policy("dtensor_cfg: {tensor_parallel_size: 2}", "megatron_cfg: {enabled: true}")
    tree.add(NAME, recipe + cluster(4, 8), block=config(4), driver=False)


def no_backend(tree: ForeignTree) -> None:
    recipe = policy("dtensor_cfg: {tensor_parallel_size: 2, enabled: false}")
    tree.add(NAME, recipe + cluster(4, 8), block=config(4))


def quoted_variable(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), checks=('data["validation/accuracy"]["$MAX_STEPS"] > 1',))


def script_of_another_algorithm(tree: ForeignTree) -> None:
    tree.add(NAME.replace("grpo", "dpo"), GOOD, block=config(4))


def recipe_in_the_wrong_folder(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), driver=False, folder="vlm")
    tree.add(NAME, None, block=config(4))


def no_recipe(tree: ForeignTree) -> None:
    tree.add(NAME, None, block=config(4))


def no_driver(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, driver=False)


def no_listing(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), listing=None)


def two_listings(tree: ForeignTree) -> None:
    stem = tree.add(NAME, GOOD, block=config(4))
    tree.listed["release"].append(f"tests/test_suites/{stem}.sh")


def same_listing_twice(tree: ForeignTree) -> None:
    stem = tree.add(NAME, GOOD, block=config(4), listing="performance")
    tree.listed["performance"].append(f"tests/test_suites/{stem}.sh")


def listed_but_missing(tree: ForeignTree) -> None:
    tree.listed["release"].append("tests/test_suites/llm/grpo-gone-1n8g-fsdp2tp1.sh")


def not_executable(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4))
    (tree.root / tree.named(f"{L}/{NAME}.sh")).chmod(0o644)


def too_few_runs(tree: ForeignTree) -> None:
    tree.add(
        NAME,
        GOOD,
        block="NUM_NODES=4\nSTEPS_PER_RUN=100\nMAX_STEPS=250\nNUM_RUNS=2\nNUM_MINUTES=1\n",
    )


def command_in_the_block(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block="NUM_NODES=$(rm -rf x)\n" + config(4).split("\n", 1)[1])


def no_minutes(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4).replace("NUM_MINUTES=120\n", ""))


def mistyped_variable(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4) + "GPU_PER_NODE=8\n")


def repeated_key(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD + "grpo:\n  num_prompts_per_step: 32\n  seed: 1\n", block=config(4))


def broken_yaml(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD + "grpo: [1,\n", block=config(4))


def key_said_twice(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD + "cluster: {num_nodes: 4}\n", block=config(4))


def missing_base(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), base="grpo_math_2B.yaml")


def circle(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), base=f"recipes/llm/{NAME}.yaml")


def layout_that_does_not_fit(tree: ForeignTree) -> None:
    tree.add(
        "grpo-mistral-7b-1n8g-fsdp2tp16",
        policy("model_name: mistral", "dtensor_cfg: {tensor_parallel_size: 16}") + cluster(1, 8),
    )


def heads_not_divided(tree: ForeignTree) -> None:
    tree.add(
        "grpo-qwen2.5-7b-instruct-1n8g-fsdp2tp8",
        policy("model_name: Qwen/Qwen2.5-7B-Instruct", "dtensor_cfg: {tensor_parallel_size: 8}")
        + cluster(1, 8),
    )


def batch_not_divided(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD.replace("policy:\n", "policy:\n  train_global_batch_size: 48\n"),
             block=config(4))  # fmt: skip


def batch_not_divided_when_packed(tree: ForeignTree) -> None:
    recipe = "policy:\n  train_global_batch_size: 24\n  sequence_packing: {enabled: true}\n"
    tree.add(NAME, GOOD.replace("policy:\n", recipe), block=config(4))


def step_beyond(tree: ForeignTree) -> None:
    tree.add(
        NAME,
        GOOD,
        block=config(4, 100),
        checks=(*CHECKS, 'data["validation/accuracy"]["500"] > 0.1'),
    )


def step_between_validations(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), checks=('data["validation/accuracy"]["15"] > 0.1',))


def always_true(tree: ForeignTree) -> None:
    tree.add(
        NAME, GOOD, block=config(4), checks=('mean(data["train/token_mult_prob_error"]) > 0.5',)
    )


def nan_passes(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), checks=('max(data["train/gen_kl_error"]) < 0.001',))


def one_noisy_step(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), checks=('data["train/reward"]["500"] > 0.1',))


def mistyped_metric(tree: ForeignTree) -> None:
    tree.add(
        NAME, GOOD, block=config(4), checks=('mean(data["train/token_mult_prob_eror"]) < 1.1',)
    )


def metric_that_begins_another(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), checks=('mean(data["train/rewar"]) > 0.1',))


def time_among_the_checks(tree: ForeignTree) -> None:
    check = 'mean(data["timing/train/total_step_time"], -6, -1) < 10'
    tree.add(NAME, GOOD, block=config(4), checks=(*CHECKS, check))


def check_that_does_not_read(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), checks=('mean(data["train/reward"] > 0.1',))


def fp8_in_the_name_only(tree: ForeignTree) -> None:
    tree.add(f"{NAME}-fp8", GOOD, block=config(4))


def actckpt_in_the_name_only(tree: ForeignTree) -> None:
    tree.add(f"{NAME}-actckpt", GOOD, block=config(4))


def long_and_no_longer(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4, 200))
    tree.add(f"{NAME}-long", GOOD, block=config(4, 100))


def mistyped_word(tree: ForeignTree) -> None:
    for size in (1, 2, 4):
        recipe = policy(f"dtensor_cfg: {{tensor_parallel_size: {size}}}") if size > 1 else ""
        tree.add(f"grpo-mixtral-8x7b-instruct-1n8g-fsdp2tp{size}", recipe + cluster(1, 8))
    tree.add("grpo-mixtral-8x7b-instrct-4n8g-fsdp2tp2", GOOD, block=config(4))


def no_allocation_in_the_name(tree: ForeignTree) -> None:
    tree.add("dapo-qwen2.5-7b", cluster(1, 8))


def no_hyphen_behind_the_algorithm(tree: ForeignTree) -> None:
    for nodes in (1, 2, 4, 8, 16):
        for tail in ("fsdp2", "dtensor2tp1"):
            name = f"grpo-{PLANT_MODEL}-{nodes}n8g-{tail}"
            tree.add(name, cluster(nodes, 8), block=config(nodes))
    tree.add("grpo_qwen2.5-7b-1n8g-fsdp2tp1", cluster(1, 8))


def disabled_without_owner(tree: ForeignTree) -> None:
    tree.add(NAME, GOOD, block=config(4), listing=None)
    row = f"llm/{NAME}.sh  # diverges since the last update; since: 2026-11-01\n"
    tree.write("tests/test_suites/disabled.txt", row)


PLANTED: list[tuple[Callable[[ForeignTree], None], list[tuple[str, str, int]]]] = [
    (wrong_nodes_in_recipe, [("EK203", f"{R}/{NAME}.yaml", 7)]),
    (wrong_nodes_in_block, [("EK203", f"{L}/{NAME}.sh", 6)]),
    (gpus_left_at_the_base, [("EK204", f"{R}/{NAME}.yaml", 1)]),
    (override_of_another_node_count, [("EK203", f"{L}/{NAME}.sh", 23)]),
    (wrong_tensor_size, [("EK205", f"{R}/{NAME}.yaml", 4)]),
    (other_backend, [("EK206", f"{R}/{NAME}.yaml", 1)]),
    (two_backends, [("EK206", f"{R}/{NAME}.yaml", 4)]),
    (no_backend, [("EK206", f"{R}/{NAME}.yaml", 3)]),
    (quoted_variable, [("EK501", f"{L}/{NAME}.sh", 33)]),
    (script_of_another_algorithm, [("EK210", f"{L}/{NAME.replace('grpo', 'dpo')}.sh", 17)]),
    (
        recipe_in_the_wrong_folder,
        [
            ("EK102", f"examples/configs/recipes/vlm/{NAME}.yaml", 1),
            ("EK101", f"{L}/{NAME}.sh", 1),
        ],
    ),
    (no_recipe, [("EK101", f"{L}/{NAME}.sh", 1)]),
    (no_driver, [("EK102", f"{R}/{NAME}.yaml", 1)]),
    (no_listing, [("EK103", f"{L}/{NAME}.sh", 1)]),
    (two_listings, [("EK104", f"{L}/{NAME}.sh", 1)]),
    (same_listing_twice, [("EK104", "tests/test_suites/performance.txt", 4)]),
    (listed_but_missing, [("EK105", "tests/test_suites/release.txt", 3)]),
    (not_executable, [("EK108", f"{L}/{NAME}.sh", 1)]),
    (too_few_runs, [("EK304", f"{L}/{NAME}.sh", 9)]),
    (command_in_the_block, [("EK301", f"{L}/{NAME}.sh", 6)]),
    (no_minutes, [("EK302", f"{L}/{NAME}.sh", 5)]),
    (mistyped_variable, [("EK303", f"{L}/{NAME}.sh", 11)]),
    (repeated_key, [("EK405", f"{R}/{NAME}.yaml", 9)]),
    (broken_yaml, [("EK401", f"{R}/{NAME}.yaml", 9)]),
    (key_said_twice, [("EK401", f"{R}/{NAME}.yaml", 8)]),
    (missing_base, [("EK402", f"{R}/{NAME}.yaml", 1)]),
    (circle, [("EK403", f"{R}/{NAME}.yaml", 1)]),
    (layout_that_does_not_fit, [("EK406", f"{R}/grpo-mistral-7b-1n8g-fsdp2tp16.yaml", 4)]),
    (heads_not_divided, [("EK407", f"{R}/grpo-qwen2.5-7b-instruct-1n8g-fsdp2tp8.yaml", 4)]),
    (batch_not_divided, [("EK408", f"{R}/{NAME}.yaml", 3)]),
    (batch_not_divided_when_packed, [("EK408", f"{R}/{NAME}.yaml", 3)]),
    (step_beyond, [("EK505", f"{L}/{NAME}.sh", 35)]),
    (step_between_validations, [("EK506", f"{L}/{NAME}.sh", 33)]),
    (always_true, [("EK502", f"{L}/{NAME}.sh", 33)]),
    (nan_passes, [("EK503", f"{L}/{NAME}.sh", 33)]),
    (one_noisy_step, [("EK504", f"{L}/{NAME}.sh", 33)]),
    (mistyped_metric, [("EK507", f"{L}/{NAME}.sh", 33)]),
    (metric_that_begins_another, [("EK507", f"{L}/{NAME}.sh", 33)]),
    (time_among_the_checks, [("EK508", f"{L}/{NAME}.sh", 35)]),
    (check_that_does_not_read, [("EK501", f"{L}/{NAME}.sh", 33)]),
    (fp8_in_the_name_only, [("EK207", f"{R}/{NAME}-fp8.yaml", 1)]),
    (actckpt_in_the_name_only, [("EK209", f"{R}/{NAME}-actckpt.yaml", 1)]),
    (long_and_no_longer, [("EK208", f"{L}/{NAME}-long.sh", 8)]),
    (mistyped_word, [("EK202", f"{L}/grpo-mixtral-8x7b-instrct-4n8g-fsdp2tp2.sh", 1)]),
    (no_allocation_in_the_name, [("EK201", f"{L}/dapo-qwen2.5-7b.sh", 1)]),
    (no_hyphen_behind_the_algorithm, [("EK201", f"{L}/grpo_qwen2.5-7b-1n8g-fsdp2tp1.sh", 1)]),
    (disabled_without_owner, [("EK106", "tests/test_suites/disabled.txt", 1)]),
]


@pytest.mark.parametrize(
    ("plant", "expected"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED]
)
def test_a_planted_mistake_is_the_only_finding(
    tmp_path: Path,
    plant: Callable[[ForeignTree], None],
    expected: list[tuple[str, str, int]],
) -> None:
    tree = ForeignTree(tmp_path)
    plant(tree)
    tree.finish()
    assert found(tmp_path) == expected


def all_planted(root: Path) -> list[tuple[str, str]]:
    """Every mistake in one big tree; the (code, path) that must be found."""
    tree = ForeignTree(root)
    add_correct_recipes(tree)
    expected = []
    for index, (plant, findings) in enumerate(PLANTED):
        tree.model = f"mistral-{index}x{index}b"
        plant(tree)
        expected += [(code, tree.named(path)) for code, path, _ in findings]
    tree.finish()
    return sorted(expected)


def test_all_mistakes_in_one_tree(tmp_path: Path) -> None:
    expected = all_planted(tmp_path)
    report = lint(tmp_path, jobs=1)
    assert sorted((it.code, it.path) for it in report.findings) == expected
    for path in {path for _, path in expected}:
        alone = lint(tmp_path, [path], jobs=1)
        assert list(alone.findings) == [it for it in report.findings if it.path == path]


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    all_planted(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom evenkeel.recipes.lint.engine import lint\n"
        "root = Path(sys.argv[1])\n"
        "assert lint(root, jobs=2).findings == lint(root, jobs=1).findings != ()\n"
    )
    # a process of its own: forking one that has threads is not safe
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
