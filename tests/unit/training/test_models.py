from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

from evenkeel.errors import InputError, MachineError
from evenkeel.recipes import config
from evenkeel.recipes.schema import Policy, Precision, Recipe
from evenkeel.training import models

ROOT = Path(__file__).parents[3]
TINY = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def tiny(seed: int = 1, **changes: object) -> Recipe:
    return Recipe(seed=seed, policy=Policy(model_config={**TINY, **changes}))


def test_weights_depend_on_the_seed_alone() -> None:
    recipe = tiny()
    architecture = models.load_config(recipe.policy)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = models.build(recipe, architecture).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    two = models.build(recipe, architecture).state_dict()
    other = models.build(tiny(seed=2), architecture).state_dict()
    sizes = [models.mean_weight_size(models.build(tiny(seed), architecture)) for seed in (1, 2)]
    assert abs(sizes[0] / sizes[1] - 1) > 1e-4
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert {value.dtype for value in one.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("precision", "unit"), [(Precision.FLOAT32, 2.0**-23), (Precision.BFLOAT16, 2.0**-7)]
)
def test_a_numeric_twin_starts_one_rounding_away(
    precision: Precision, unit: float, tmp_path: Path
) -> None:
    recipe = tiny(hidden_size=32)
    recipe.policy.precision = precision
    architecture = models.load_config(recipe.policy)
    whole = models.build(recipe, architecture)
    whole.save_pretrained(tmp_path)
    recipe.policy.numeric_twin = 1
    twin = models.build(recipe, architecture).state_dict()
    recipe.policy.hf_path = str(tmp_path)
    loaded = models.build(recipe, architecture).state_dict()
    recipe.policy.numeric_twin = 2
    other = models.build(recipe, architecture).state_dict()
    size, moved_size = (models.mean_weight_size(models.build(one, architecture))
                        for one in (tiny(hidden_size=32), recipe))  # fmt: skip
    assert size == models.mean_weight_size(whole)
    assert moved_size == pytest.approx(size, rel=unit)
    for name, value in whole.state_dict().items():
        moved = (twin[name] / value - 1).nan_to_num()
        assert moved.abs().max() <= 2 * unit
        assert moved.abs().median() >= unit / 2
        assert torch.equal(loaded[name], twin[name])
        assert not torch.equal(other[name], twin[name])


def test_a_saved_model_is_loaded_and_checked(tmp_path: Path) -> None:
    recipe = tiny()
    whole = models.build(recipe, models.load_config(recipe.policy))
    whole.save_pretrained(tmp_path)
    recipe.policy.hf_path = str(tmp_path)
    loaded = models.build(recipe, models.load_config(recipe.policy))
    for name, value in whole.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    recipe.policy.model_config["num_hidden_layers"] = 3
    with pytest.raises(InputError, match=r"num_hidden_layers is 3, and .* has 2"):
        models.load_config(recipe.policy)


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    recipe = tiny()
    whole = models.build(recipe, models.load_config(recipe.policy))
    state = whole.state_dict()
    del state["model.layers.1.mlp.up_proj.weight"]
    whole.save_pretrained(tmp_path, state_dict=state)
    recipe.policy.hf_path = str(tmp_path)
    with pytest.raises(InputError, match=r"lacks 1 weight.*layers\.1\.mlp\.up_proj"):
        models.build(recipe, models.load_config(recipe.policy))


def test_an_unreadable_model(tmp_path: Path) -> None:
    policy = Policy(model_name="x", hf_path=str(tmp_path))
    with pytest.raises(MachineError, match="cannot read the model"):
        models.load_config(policy)
    policy.hf_path = str(tmp_path / "absent")
    with pytest.raises(InputError, match="not a folder"):
        models.load_config(policy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": None}, "names no model"),
        ({"num_hiden_layers": 2}, "did you mean 'num_hidden_layers'"),
        ({"model_type": "bert"}, "not a key of a bert configuration|not a causal"),
    ],
)
def test_what_transformers_would_not_mind(changes: dict[str, object], message: str) -> None:
    recipe = tiny(**changes)
    with pytest.raises(InputError, match=message):
        models.build(recipe, models.load_config(recipe.policy))


def test_the_gpu_recipe_builds_on_meta() -> None:
    name = "sft-llama3.2-1b-1n8g-fsdp2tp1"
    resolved = config.load(ROOT / f"examples/configs/recipes/llm/{name}.yaml", [])
    described = models.described_config(resolved.recipe.policy.model_config)
    model = models.build_on_meta(described)
    assert models.num_parameters(model) == 1_235_814_400
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert len(list(models.transformer_blocks(model))) == 16


def test_the_gpu_recipe_is_sharded_over_eight_ranks(fake_mesh: DeviceMesh) -> None:
    from evenkeel.recipes.support import check_parallel
    from evenkeel.training.backends.fsdp2 import Fsdp2Backend, shard

    name = "sft-llama3.2-1b-1n8g-fsdp2tp1"
    resolved = config.load(ROOT / f"examples/configs/recipes/llm/{name}.yaml", [])
    check_parallel(resolved.recipe.policy, Fsdp2Backend.supported_parallel)
    described = models.described_config(resolved.recipe.policy.model_config)
    model = models.build_on_meta(described)
    shard(model, fake_mesh, resolved.recipe.policy)
    local = sum(weight.to_local().numel() for weight in model.parameters())
    assert local == 1_235_814_400 // 8
