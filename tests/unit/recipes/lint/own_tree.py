"""A small tree of our own schema, to plant mistakes in."""

from __future__ import annotations

import shutil
from pathlib import Path

CONFIGS = Path(__file__).parents[4] / "examples/configs"
NAME = "sft-llama3.1-8b-2n8g-fsdp2tp2"
RECIPE = f"examples/configs/recipes/llm/{NAME}.yaml"
SCRIPT = f"tests/test_suites/llm/{NAME}.sh"

RECIPE_TEXT = """\
# what it is for
defaults: ../../sft.yaml

policy:
  model_name: meta-llama/Llama-3.1-8B
  parallel:
    tensor_parallel_size: 2  # fits one card
  optimizer:
    lr: 2e-5

sft:
  val_period: 50

cluster:
  num_nodes: 2
"""
DRIVER_TEXT = """\
#!/usr/bin/env bash
source "$(dirname "${BASH_SOURCE[0]}")/../common.env"

# ===== BEGIN CONFIG =====
NUM_NODES=2
STEPS_PER_RUN=100
MAX_STEPS=250
NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # round up
NUM_MINUTES=60
# ===== END CONFIG =====

exit_if_max_steps_reached

train examples/run_sft.py "$@"

judge \\
    'mean(data["train/loss"], -10, 0) < 0.9' \\
    'data["validation/loss"]["250"] < 1.0'
"""


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    if path.endswith(".sh"):
        file.chmod(0o755)


def replace(root: Path, path: str, old: str, new: str) -> None:
    file = root / path
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def make_own_tree(root: Path) -> Path:
    """One recipe without a mistake."""
    (root / "examples/configs").mkdir(parents=True)
    for base in CONFIGS.glob("*.yaml"):
        shutil.copy(base, root / "examples/configs")
    write(root, RECIPE, RECIPE_TEXT)
    write(root, SCRIPT, DRIVER_TEXT)
    write(root, "tests/test_suites/nightly.txt", f"#: gpus_per_node: 8\n{SCRIPT}\n")
    return root
