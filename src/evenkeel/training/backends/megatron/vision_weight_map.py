"""The pieces of a LLaVA's vision tower and projector.

What the language model never sees has none: the layers above ``vision_feature_layer`` and the norm
behind the last. megatron-core's tower does without them; on the torch backend no gradient reaches
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from evenkeel.training.backends.megatron.piece import Piece
from evenkeel.training.backends.megatron.vision_architecture import num_tower_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TOWER, _PROJECTOR = "model.vision_tower", "model.multi_modal_projector"


def pieces(config: PretrainedConfig) -> Iterator[Piece]:
    """Every weight of both, in a fixed order; ``config`` is of the whole model."""
    embeddings = f"{_TOWER}.embeddings"
    yield Piece("vision_model.class_token", (f"{embeddings}.class_embedding",), is_class_token=True)
    yield Piece("vision_model.conv1.weight", (f"{embeddings}.patch_embedding.weight",))
    yield Piece(
        "vision_model.position_embeddings.weight", (f"{embeddings}.position_embedding.weight",)
    )
    yield from _both("vision_model.ln_pre", f"{_TOWER}.pre_layrnorm")  # sic
    for layer in range(num_tower_layers(config)):
        yield from _layer(
            config.vision_config,
            f"vision_model.decoder.layers.{layer}",
            f"{_TOWER}.encoder.layers.{layer}",
        )
    for number in (1, 2):
        ours, theirs = f"linear_fc{number}", f"{_PROJECTOR}.linear_{number}"
        yield from _both(
            f"vision_projection.encoder.{ours}", theirs, bias=config.multimodal_projector_bias
        )


def _layer(config: PretrainedConfig, here: str, there: str) -> Iterator[Piece]:
    ours, theirs = f"{here}.self_attention", f"{there}.self_attn"
    heads = config.num_attention_heads
    for kind in ("weight", "bias"):
        yield Piece(
            f"{ours}.linear_qkv.{kind}",
            tuple(f"{theirs}.{name}_proj.{kind}" for name in "qkv"),
            heads=(heads, heads, config.hidden_size // heads),
        )
    yield from _both(f"{ours}.linear_proj", f"{theirs}.out_proj")
    yield from _both(f"{here}.input_layernorm", f"{there}.layer_norm1")
    yield from _both(f"{here}.pre_mlp_layernorm", f"{there}.layer_norm2")
    for number in (1, 2):
        yield from _both(f"{here}.mlp.linear_fc{number}", f"{there}.mlp.fc{number}")


def _both(here: str, there: str, *, bias: bool = True) -> Iterator[Piece]:
    """Weight and bias of one module."""
    for kind in ("weight", "bias") if bias else ("weight",):
        yield Piece(f"{here}.{kind}", (f"{there}.{kind}",))
