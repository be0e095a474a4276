"""New, renamed and bumped recipes, on a copy of our own tree; the linter is content with each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evenkeel.cli.main import main
from evenkeel.errors import InputError, MachineError
from evenkeel.recipes import config, config_block, renaming, scaffold
from evenkeel.recipes.tree_change import Change, Move, Write
from evenkeel.run_paths import Repository

OURS = Path(__file__).parents[3]
CPU = "sft-llama-0.9m-1n1g-fsdp2tp1"


@pytest.fixture
def tree(tmp_path: Path) -> Repository:
    shutil.copytree(OURS / "examples" / "configs", tmp_path / "examples" / "configs")
    suites = tmp_path / "tests" / "test_suites"
    (suites / "llm").mkdir(parents=True)
    (suites / "vlm").mkdir()
    for path in (OURS / "tests" / "test_suites").glob("*.txt"):
        (suites / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    for driver in (OURS / "tests" / "test_suites").glob("*/*.sh"):
        shutil.copy(driver, suites / driver.parent.name / driver.name)
    return Repository(tmp_path)


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_a_new_recipe_is_written_whole(
    tree: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "sft-qwen3-1.7b-1n8g-fsdp2tp2-actckpt"
    assert main(["new", name, "--root", str(tree.root)]) == 0
    assert tree.recipe("llm", name).read_text(encoding="utf-8") == (
        "# Qwen3, 1.7 billion parameters: supervised fine-tuning.\n"
        "defaults:\n"
        "  - ../../sft.yaml\n"
        "  - ../../models/qwen3-1.7b.yaml\n"
        "  - ../../data/ultrachat.yaml\n"
        "\n"
        "policy:\n"
        "  parallel:\n"
        "    tensor_parallel_size: 2\n"
        "  activation_checkpointing: true\n"
        "\n"
        "cluster:\n"
        "  device: cuda\n"
    )
    driver = tree.driver("llm", name)
    block = config_block.read(driver)
    assert (block.num_nodes, block.gpus_per_node, block.num_runs) == (1, 8, 1)
    assert driver.stat().st_mode & 0o111
    nightly = (tree.suites_dir / "nightly.txt").read_text(encoding="utf-8")
    assert nightly.endswith(f"tests/test_suites/llm/{name}.sh\n")
    shown = capsys.readouterr().out
    assert f"wrote   examples/configs/recipes/llm/{name}.yaml" in shown
    assert shown.endswith("nothing to report\n")


@pytest.mark.parametrize(
    "name",
    [
        "grpo-qwen3-8b-8n8g-megatrontp4sp-fp8",
        "dpo-qwen3-8b-8n4g-fsdp2tp4",
        "pretrain-qwen3-30ba3b-4n8g-megatrontp2pp2ep4.v2",
        "vlm_sft-gemma3-4b-it-2n4g-fsdp2tp2-seqpack",
        "vlm_grpo-qwen2.5-vl-3b-instruct-clevr-1n8g-dtensor2tp1-lora",
    ],
)
def test_new_recipes_of_every_kind_resolve_and_pass_the_linter(tree: Repository, name: str) -> None:
    assert main(["new", name, "--root", str(tree.root)]) == 0
    kind = "vlm" if name.startswith("vlm_") else "llm"
    assert config.load(tree.recipe(kind, name)).name == name


def test_a_recipe_like_another_inherits_from_it_and_copies_its_checks(tree: Repository) -> None:
    name, like = "sft-llama3.2-1b-2n4g-fsdp2tp4", "sft-llama3.2-1b-1n8g-fsdp2tp1"
    assert main(["new", name, "--from", like, "--root", str(tree.root)]) == 0
    recipe = tree.recipe("llm", name).read_text(encoding="utf-8")
    assert f"defaults: {like}.yaml\n" in recipe
    block = config_block.read(tree.driver("llm", name))
    assert (block.num_nodes, block.gpus_per_node) == (2, 4)
    body = tree.driver("llm", name).read_text(encoding="utf-8").partition("END CONFIG")[2]
    assert body == tree.driver("llm", like).read_text(encoding="utf-8").partition("END CONFIG")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([CPU], f"{CPU}.yaml: this file exists already, and so do "),
        (["sft-qwen3-1.7b-8g1n-fsdp2tp2"], "no recipe name"),
        (["sft-qwen3-1.7b-8K"], "states no allocation"),
        (["stf-qwen3-1.7b-1n8g-fsdp2tp2"], "did you mean 'sft'?"),
        (["sft-qwen9-1.7b-1n8g-fsdp2tp2"], "'qwen9-1.7b' (did you mean 'qwen3-1.7b'?)"),
        (["sft-qwen3-1.7b-1n8g-fsdp2tp4", "--suite", "nightli"], "did you mean 'nightly'?"),
        (["sft-qwen3-1.7b-1n8g-fsdp2tp4", "--suite", "disabled"], "parked"),
    ],
)
def test_what_cannot_be_made_changes_nothing(
    tree: Repository,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    before = files(tree.root)
    assert main(["new", *arguments, "--root", str(tree.root)]) == 2
    assert message in capsys.readouterr().err
    assert files(tree.root) == before


def test_a_dry_run_changes_nothing(tree: Repository) -> None:
    before = files(tree.root)
    root = ["--root", str(tree.root), "--dry-run"]
    assert main(["new", "sft-qwen3-1.7b-1n8g-fsdp2tp4", *root]) == 0
    assert main(["rename", CPU, "sft-llama-0.9m-1n2g-fsdp2tp1", *root]) == 0
    assert main(["bump", CPU, *root]) == 0
    assert files(tree.root) == before


def test_a_bump_carries_recipe_driver_listing_baseline_and_heirs(tree: Repository) -> None:
    heir = tree.recipe("llm", "sft-llama-0.9m-1n2g-fsdp2tp1")
    heir.write_text(f"defaults:\n  - {CPU}.yaml\n", encoding="utf-8")
    baseline = tree.baselines_dir / "llm" / CPU / "cpu.json"
    baseline.parent.mkdir(parents=True)
    baseline.write_text("{}", encoding="utf-8")
    recipe = tree.recipe("llm", CPU).read_bytes()
    assert main(["bump", CPU, "--root", str(tree.root)]) in (0, 1)
    new = f"{CPU}.v2"
    assert tree.recipe("llm", new).read_bytes() == recipe
    assert tree.driver("llm", new).stat().st_mode & 0o111
    assert (tree.baselines_dir / "llm" / new / "cpu.json").read_text(encoding="utf-8") == "{}"
    assert heir.read_text(encoding="utf-8") == f"defaults:\n  - {new}.yaml\n"
    listing = (tree.suites_dir / "nightly_cpu.txt").read_text(encoding="utf-8")
    assert f"llm/{new}.sh" in listing and f"{CPU}.sh" not in listing
    assert not tree.recipe("llm", CPU).exists() and not tree.driver("llm", CPU).exists()
    assert renaming.next_version(tree, new) == f"{CPU}.v3"


def test_a_rename_to_a_vision_name_moves_to_its_folder(tree: Repository) -> None:
    renaming.rename(tree, CPU, f"vlm_{CPU}").apply()
    assert tree.driver("vlm", f"vlm_{CPU}").exists()
    assert config.load(tree.recipe("vlm", f"vlm_{CPU}")).name == f"vlm_{CPU}"
    listing = (tree.suites_dir / "nightly_cpu.txt").read_text(encoding="utf-8")
    assert f"tests/test_suites/vlm/vlm_{CPU}.sh" in listing


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sft-lama-0.9m-1n1g-fsdp2tp1", "sft-x-1n1g-tp1", "did you mean"),
        (CPU, CPU, "already"),
        (CPU, "sft-llama-0.9m-1n2g-fsdp2tp2", "exists already"),
        (CPU, "sft llama", "no recipe name"),
    ],
)
def test_a_rename_that_cannot_be_is_refused(
    tree: Repository, old: str, new: str, message: str
) -> None:
    before = files(tree.root)
    with pytest.raises(InputError, match=message):
        renaming.rename(tree, old, new)
    assert files(tree.root) == before


def test_a_change_that_fails_half_way_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    before = files(tmp_path)
    change = Change(
        moves=(Move(tmp_path / "a", tmp_path / "deep" / "er" / "c"),),
        writes=(
            Write(tmp_path / "b", "changed"),
            Write(tmp_path / "new" / "d", "d", is_new=True, executable=True),
            # a file stands where this one needs a folder
            Write(tmp_path / "b" / "e", "e", is_new=True),
        ),
    )
    with pytest.raises(MachineError):
        change.apply()
    assert files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_driver_to_start_from_gets_the_new_allocation_only(tree: Repository) -> None:
    text = tree.driver("llm", "sft-llama3.2-1b-1n8g-fsdp2tp1").read_text(encoding="utf-8")
    text = text.replace("GPUS_PER_NODE=8\n", "")
    tree.driver("llm", "sft-llama3.2-1b-1n8g-fsdp2tp1").write_text(text, encoding="utf-8")
    like = "sft-llama3.2-1b-1n8g-fsdp2tp1"
    change = scaffold.new(tree, "sft-llama3.2-1b-2n4g-fsdp2tp1", like, "nightly")
    driver = next(write.text for write in change.writes if write.path.suffix == ".sh")
    assert driver == text.replace("NUM_NODES=1\n", "NUM_NODES=2\nGPUS_PER_NODE=4\n")


def test_a_tree_with_a_schema_of_its_own_gets_the_keys_that_are_sure(tmp_path: Path) -> None:
    tree = Repository(tmp_path)
    like, name = "grpo-owl-1n8g-fsdp2tp1", "grpo-owl-2n4g-fsdp2tp2"
    recipe = tree.recipe("llm", like)
    recipe.parent.mkdir(parents=True)
    recipe.write_text(
        "policy:\n  dtensor_cfg:\n    tensor_parallel_size: 1\n"
        "cluster:\n  num_nodes: 1\n  gpus_per_node: 8\n",
        encoding="utf-8",
    )
    driver = tree.driver("llm", like)
    driver.parent.mkdir(parents=True)
    block = "# ===== BEGIN CONFIG =====\nNUM_NODES=1\n# ===== END CONFIG =====\n"
    driver.write_text(block, encoding="utf-8")
    (tree.suites_dir / "nightly.txt").write_text(f"llm/{like}.sh\n", encoding="utf-8")
    written = {
        write.path.name: write.text for write in scaffold.new(tree, name, like, "nightly").writes
    }
    assert written[f"{name}.yaml"].partition("\n")[2] == (
        f"defaults: {like}.yaml\n\ncluster:\n  num_nodes: 2\n  gpus_per_node: 4\n"
    )
    assert "NUM_NODES=2\nGPUS_PER_NODE=4\n" in written[f"{name}.sh"]
    assert written["nightly.txt"] == f"llm/{like}.sh\nllm/{name}.sh\n"
