"""Which weights of transformers megatron-core's weights correspond to, piece by piece."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from evenkeel.training import models
from evenkeel.training.backends.megatron import mixture, vision_weight_map
from evenkeel.training.backends.megatron.architecture import head_dim
from evenkeel.training.backends.megatron.piece import Piece

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def pieces(config: PretrainedConfig) -> Iterator[Piece]:
    """Every weight of the model, in a fixed order."""
    tied = bool(config.tie_word_embeddings)
    if not models.sees_images(config):
        yield from _decoder(config, tied=tied)
        return
    for piece in _decoder(config.get_text_config(), tied=tied):
        sources = (re.sub(r"^model\.", "model.language_model.", name) for name in piece.sources)
        yield replace(piece, sources=tuple(sources))
    yield from vision_weight_map.pieces(config)


def _decoder(config: PretrainedConfig, *, tied: bool) -> Iterator[Piece]:
    """Of a model of text; ``tied``: its output layer is the embedding."""
    yield Piece("embedding.word_embeddings.weight", ("model.embed_tokens.weight",))
    sparse = mixture.sparse_layers(config) if mixture.has_experts(config) else None
    for layer in range(config.num_hidden_layers):
        yield from _attention(config, layer)
        if sparse is not None and sparse[layer]:
            yield from _experts(config, layer)
        else:
            yield from _mlp(f"layers.{layer}.mlp", f"model.layers.{layer}.mlp")
    yield Piece("final_layernorm.weight", ("model.norm.weight",))
    if tied:
        yield Piece("output_layer.weight", ("model.embed_tokens.weight",), is_copy=True)
    else:
        yield Piece("output_layer.weight", ("lm_head.weight",))


def _attention(config: PretrainedConfig, layer: int) -> Iterator[Piece]:
    here, there = f"layers.{layer}", f"model.layers.{layer}"
    ours, theirs = f"{here}.self_attention", f"{there}.self_attn"
    yield Piece(f"{here}.input_layernorm.weight", (f"{there}.input_layernorm.weight",))
    yield Piece(f"{here}.pre_mlp_layernorm.weight", (f"{there}.post_attention_layernorm.weight",))
    yield Piece(f"{ours}.linear_proj.weight", (f"{theirs}.o_proj.weight",))
    if mixture.has_latent_attention(config):
        for name, source in _latent_names(config):
            yield Piece(f"{ours}.{name}.weight", (f"{theirs}.{source}.weight",))
        return
    heads = (config.num_attention_heads, config.num_key_value_heads, head_dim(config))
    for kind in ("weight", "bias") if config.model_type == "qwen2" else ("weight",):
        sources = tuple(f"{theirs}.{name}_proj.{kind}" for name in "qkv")
        yield Piece(f"{ours}.linear_qkv.{kind}", sources, heads=heads)
    if config.model_type in {"qwen3", "qwen3_moe"}:
        for name in "qk":
            yield Piece(f"{ours}.{name}_layernorm.weight", (f"{theirs}.{name}_norm.weight",))


def _latent_names(config: PretrainedConfig) -> Iterator[tuple[str, str]]:
    if config.q_lora_rank is None:
        yield "linear_q_proj", "q_proj"
    else:
        yield "linear_q_down_proj", "q_a_proj"
        yield "q_layernorm", "q_a_layernorm"
        yield "linear_q_up_proj", "q_b_proj"
    yield "linear_kv_down_proj", "kv_a_proj_with_mqa"
    yield "kv_layernorm", "kv_a_layernorm"
    yield "linear_kv_up_proj", "kv_b_proj"


def _mlp(here: str, there: str) -> Iterator[Piece]:
    gate_up = (f"{there}.gate_proj.weight", f"{there}.up_proj.weight")
    yield Piece(f"{here}.linear_fc1.weight", gate_up, is_gated=True)
    yield Piece(f"{here}.linear_fc2.weight", (f"{there}.down_proj.weight",))


def _experts(config: PretrainedConfig, layer: int) -> Iterator[Piece]:
    here, there = f"layers.{layer}.mlp", f"model.layers.{layer}.mlp"
    yield Piece(f"{here}.router.weight", (f"{there}.gate.weight",))
    if config.model_type == "deepseek_v3":
        yield Piece(f"{here}.router.expert_bias", (f"{there}.gate.e_score_correction_bias",))
    for expert in range(mixture.num_experts(config)):
        name = f"{here}.experts.{expert}"
        yield Piece(
            f"{name}.linear_fc1.weight",
            (f"{there}.experts.gate_up_proj",),
            expert=expert,
            is_gated=True,
        )
        yield Piece(f"{name}.linear_fc2.weight", (f"{there}.experts.down_proj",), expert=expert)
    if getattr(config, "n_shared_experts", None):
        yield from _mlp(f"{here}.shared_experts", f"{there}.shared_experts")


_FUSED_NORMS = (
    ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
    ("self_attention.linear_q_up_proj.layer_norm_weight", "self_attention.q_layernorm.weight"),
    ("self_attention.linear_kv_up_proj.layer_norm_weight", "self_attention.kv_layernorm.weight"),
    ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"),
)
"""Transformer Engine keeps a norm in the linear layer that follows it."""


def piece_name(local: str, first_layer: int, first_expert: int) -> str:
    """The name of a piece from a parameter's name in one rank's chunk of the model.

    Args:
        local: such as ``decoder.layers.0.mlp.experts.local_experts.1.linear_fc1.weight``; beside
            a vision tower, which is never divided, it begins with ``language_model``.
        first_layer: number in the whole model of the chunk's first layer.
        first_expert: number in the whole layer of this rank's first expert.
    """
    name = local.removeprefix("language_model.").removeprefix("decoder.")
    for fused, norm in _FUSED_NORMS:
        name = name.replace(fused, norm)
    # grouped experts of Transformer Engine: experts.linear_fc1.weight3
    name = re.sub(
        r"experts\.(linear_fc\d)\.weight(\d+)$", r"experts.local_experts.\2.\1.weight", name
    )
    name = re.sub(r"^layers\.(\d+)", lambda m: f"layers.{int(m[1]) + first_layer}", name)
    return re.sub(
        r"experts\.local_experts\.(\d+)", lambda m: f"experts.{int(m[1]) + first_expert}", name
    )
