from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes import config
from evenkeel.recipes.memory_fit.architecture import keys_of, parse, published
from evenkeel.recipes.memory_fit.weights import weights_of

MODELS = Path(__file__).parents[4] / "examples" / "configs" / "models"

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_the_weights_of_a_small_llama() -> None:
    weights = {weight.name: weight.shape for weight in weights_of(parse(LLAMA))}
    assert weights["model.embed_tokens.weight"] == weights["lm_head.weight"] == (100, 8)
    assert weights["model.layers.1.self_attn.k_proj.weight"] == (4, 8)
    assert weights["model.layers.1.mlp.down_proj.weight"] == (8, 24)
    # per layer: query and output 64 each, key and value 32 each, three of 8 x 24, two norms
    per_layer = 2 * 64 + 2 * 32 + 3 * 192 + 16
    total = sum(weight.numel for weight in weights_of(parse(LLAMA)))
    assert total == 2 * 800 + 2 * per_layer + 8


def test_a_tied_output_layer_counts_once() -> None:
    tied = parse({**LLAMA, "tie_word_embeddings": True})
    assert "lm_head.weight" not in {weight.name for weight in weights_of(tied)}
    gemma = parse({**LLAMA, "model_type": "gemma"})
    assert gemma.text.tied
    assert gemma.text.head_dim == 256


def test_experts_stand_in_the_layers_that_have_them() -> None:
    keys = {
        **LLAMA,
        "model_type": "qwen3_moe",
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 5,
        "decoder_sparse_step": 2,
    }
    names = {weight.name for weight in weights_of(parse(keys)) if weight.is_expert}
    assert {name.split(".")[2] for name in names} == {"1"}


@pytest.mark.parametrize(
    ("layer", "used"), [(None, 23), (-1, 24), (-2, 23), (3, 3), ([-2, -1], 24), (99, 24)]
)
def test_layers_above_the_one_that_is_seen_are_not_used(layer: object, used: int) -> None:
    keys = dict(config.load(MODELS / "llava1.5-7b.yaml").recipe.policy.model_config)
    keys["vision_feature_layer"] = layer
    if layer is None:
        del keys["vision_feature_layer"]
    model = parse(keys)
    assert model.vision is not None
    assert (model.vision.num_layers, model.vision.num_used_layers) == (24, used)
    unused = {weight.block for weight in weights_of(model) if weight.is_unused}
    assert unused == {None, *(f"vision.{layer}" for layer in range(used, 24))}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**LLAMA, "model_type": "lama"}, "did you mean 'llama'"),
        ({**LLAMA, "model_type": None}, "known are llama"),
        ({k: v for k, v in LLAMA.items() if k != "vocab_size"}, "has no vocab_size"),
        ({**LLAMA, "hidden_size": "8"}, "hidden_size is '8'"),
        ({**LLAMA, "model_type": "llava", "text_config": LLAMA}, "vision_config has no hidden"),
    ],
)
def test_what_is_not_known_is_said(keys: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(keys)


def test_a_name_alone_is_looked_up_in_the_tree(tmp_path: Path) -> None:
    known = dict(published(MODELS))
    assert known["Qwen/Qwen3-8B"]["hidden_size"] == 4096
    keys = keys_of({}, "Qwen/Qwen3-8B", None, MODELS, "distillation.teacher")
    assert keys["num_hidden_layers"] == 36
    with pytest.raises(InputError, match="whose shape is not known here") as error:
        keys_of({}, "Qwen/Qwen3-9B", None, MODELS, "policy")
    assert "policy.model_config" in str(error.value)
    assert "Qwen/Qwen3-8B" in str(error.value)


def test_a_local_folder_says_its_own_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    assert keys_of({}, "some/model", str(tmp_path), MODELS, "policy") == LLAMA
