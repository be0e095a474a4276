from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.recipes import schema
from evenkeel.recipes.config import convergence_fields, is_convergence_relevant, load
from evenkeel.recipes.typed import known_keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("policy: {model_config: {hidden_size: 64}}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "policy.precision=float32",
        "policy.optimizer.betas=[0.9,0.99]",
        "policy.scheduler.warmup_steps=3",
        "policy.model_config.hidden_size=65",
        "++policy.model_config.num_hidden_layers=2",
        "data.dataset=jsonl",
        "++data.options.max_operand=9",
        "policy.tokenizer.name=bytes",
    ],
)
def test_what_shapes_the_curve_changes_the_fingerprint(path: Path, override: str) -> None:
    assert load(path, [override]).fingerprint != load(path).fingerprint
    assert is_convergence_relevant(override.split("=")[0].lstrip("+"))


@pytest.mark.parametrize(
    "override",
    [
        "sft.max_num_steps=7",
        "policy.train_micro_batch_size=2",
        "policy.parallel.tensor_parallel_size=2",
        "policy.activation_checkpointing=true",
        "policy.sequence_packing.enabled=true",
        "logger.wandb.enabled=true",
        "cluster.device=cpu",
        "checkpointing.save_period=3",
        "policy.max_grad_norm=1",
        "policy.hf_path=x",
    ],
)
def test_what_is_layout_does_not(path: Path, override: str) -> None:
    assert load(path, [override]).fingerprint == load(path).fingerprint


def test_layout_keys_say_so() -> None:
    layout = {key for key in known_keys() if not is_convergence_relevant(key)}
    assert {"cluster", "cluster.num_nodes", "policy.parallel", "sft.max_num_steps"} <= layout
    assert not {"policy", "policy.optimizer", "data.options.x", "no.such.key"} & layout


def test_fields_are_flat_and_sorted(path: Path) -> None:
    fields = convergence_fields(load(path).values)
    assert list(fields) == sorted(fields)
    assert fields["policy.model_config.hidden_size"] == 64
    assert "policy.parallel.tensor_parallel_size" not in fields
    assert "policy.model_name" not in fields  # no value, nothing to compare


def test_every_field_declares_what_it_affects() -> None:
    assert all(isinstance(kind.shapes_curve, bool) for kind in known_keys().values())
    assert {"seed", "policy.optimizer.lr"} <= set(known_keys())
    assert schema.Recipe().seed == 42
