from __future__ import annotations

from typing import Any, cast

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes.model_support import TORCH_STAGES
from evenkeel.recipes.pipeline_stages import layers_of_stages
from evenkeel.training import models
from evenkeel.training.backends.pipeline_stage import Place, check_model, cut

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def architecture(model_type: str, *, tied: bool = False) -> Any:
    return models.described_config(
        {
            "model_type": model_type,
            "vocab_size": 16,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "tie_word_embeddings": tied,
        }
    )


def stages_of(config: Any) -> list[set[str]]:
    """Names of the weights that each of three stages holds."""
    found = []
    for index, layers in enumerate(layers_of_stages(3, 3)):
        model = models.build_on_meta(config)
        cut(model, layers, Place(index, 3, cast(Any, None)))
        found.append({name for name, _ in model.named_parameters()})
    return found


@pytest.mark.parametrize("model_type", TORCH_STAGES)
def test_each_stage_holds_its_own_weights_under_their_names(model_type: str) -> None:
    config = architecture(model_type)
    first, middle, last = stages_of(config)
    whole = {name for name, _ in models.build_on_meta(config).named_parameters()}
    assert first | middle | last == whole
    assert len(first) + len(middle) + len(last) == len(whole)
    assert {name.split(".")[2] for name in middle} == {"1"}
    assert EMBEDDING in first
    assert {HEAD, "model.norm.weight"} < last


def test_both_ends_hold_an_embedding_that_is_the_output_layer() -> None:
    first, middle, last = stages_of(architecture("llama", tied=True))
    assert EMBEDDING in first & last
    assert EMBEDDING not in middle


def test_a_model_with_other_parts_is_refused() -> None:
    with pytest.raises(InputError, match="does not know the stages of a gemma model") as caught:
        check_model(architecture("gemma"))
    assert str(caught.value.fix).endswith("llama, mistral, qwen2, qwen3")
