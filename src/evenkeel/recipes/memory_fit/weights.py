"""Every weight of a model by transformers' name, with what tensor parallelism splits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from evenkeel.recipes.memory_fit.architecture import Model, TextModel, VisionTower


@dataclass(frozen=True)
class Weight:
    """One tensor."""

    name: str
    shape: tuple[int, ...]
    split: int | None = None
    """The dimension that tensor-parallel ranks share; None: each has all of it."""
    block: str | None = None
    """The repeated layer it belongs to, such as ``text.3``; None: it stands alone."""
    is_expert: bool = False
    """Its first dimension counts experts."""
    is_unused: bool = False
    """transformers builds it, and the language model sees nothing of it."""

    @property
    def numel(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def is_vision(self) -> bool:
        """Of the tower or the projector, not of the language model."""
        return any(f".{part}." in f".{self.name}" for part in (*TOWERS, *PROJECTORS))

    @property
    def is_projector(self) -> bool:
        """Of what stands between tower and language model."""
        return any(f".{part}." in f".{self.name}" for part in PROJECTORS)


TOWERS = ("vision_tower", "visual", "vision_model")
PROJECTORS = ("multi_modal_projector", "connector", "visual.merger")
"""What transformers calls the parts of vision-language models."""

TEXT, VISION = "text", "vision"
"""First words of ``Weight.block``."""


def weights_of(model: Model) -> Iterator[Weight]:
    """All weights; tied ones once."""
    prefix = "model."
    if model.vision is not None:
        yield from _tower(model.vision)
        inner = {"smolvlm": "text_model."}.get(model.vision.model_type, "language_model.")
        prefix += inner
    text = model.text
    yield Weight(f"{prefix}embed_tokens.weight", (text.vocab_size, text.hidden_size), split=0)
    for layer in range(text.num_layers):
        yield from _layer(text, layer, f"{prefix}layers.{layer}.")
    yield Weight(f"{prefix}norm.weight", (text.hidden_size,))
    if not text.tied:
        yield Weight("lm_head.weight", (text.vocab_size, text.hidden_size), split=0)


def _layer(text: TextModel, layer: int, prefix: str) -> Iterator[Weight]:
    block = f"{TEXT}.{layer}"
    attention = _latent if text.latent else _attention
    yield from attention(text, f"{prefix}self_attn.", block)
    if text.is_sparse(layer):
        yield from _mixture(text, f"{prefix}mlp.", block)
    else:
        yield from _gated(text, f"{prefix}mlp.", block, text.ffn_size)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if text.norms_per_layer == 4:
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for norm in norms:
        yield Weight(f"{prefix}{norm}.weight", (text.hidden_size,), block=block)


def _attention(text: TextModel, prefix: str, block: str) -> Iterator[Weight]:
    widths = {"q": text.query_width, "k": text.kv_width, "v": text.kv_width}
    for name, width in widths.items():
        yield Weight(f"{prefix}{name}_proj.weight", (width, text.hidden_size), 0, block)
        if text.qkv_bias:
            yield Weight(f"{prefix}{name}_proj.bias", (width,), 0, block)
    yield Weight(f"{prefix}o_proj.weight", (text.hidden_size, text.value_width), 1, block)
    if text.attention_bias:
        yield Weight(f"{prefix}o_proj.bias", (text.hidden_size,), block=block)
    if text.has_head_norms:
        for name in "qk":
            yield Weight(f"{prefix}{name}_norm.weight", (text.head_dim,), block=block)


def _latent(text: TextModel, prefix: str, block: str) -> Iterator[Weight]:
    latent, hidden = text.latent, text.hidden_size
    assert latent is not None
    if latent.query_rank is None:
        yield Weight(f"{prefix}q_proj.weight", (text.query_width, hidden), 0, block)
    else:
        rank = latent.query_rank
        yield Weight(f"{prefix}q_a_proj.weight", (rank, hidden), block=block)
        yield Weight(f"{prefix}q_a_layernorm.weight", (rank,), block=block)
        yield Weight(f"{prefix}q_b_proj.weight", (text.query_width, rank), 0, block)
    shared = latent.kv_rank + latent.rope_size
    yield Weight(f"{prefix}kv_a_proj_with_mqa.weight", (shared, hidden), block=block)
    yield Weight(f"{prefix}kv_a_layernorm.weight", (latent.kv_rank,), block=block)
    wide = text.num_heads * (latent.nope_size + latent.value_size)
    yield Weight(f"{prefix}kv_b_proj.weight", (wide, latent.kv_rank), 0, block)
    yield Weight(f"{prefix}o_proj.weight", (hidden, text.value_width), 1, block)


def _gated(text: TextModel, prefix: str, block: str, size: int) -> Iterator[Weight]:
    for name in ("gate", "up"):
        yield Weight(f"{prefix}{name}_proj.weight", (size, text.hidden_size), 0, block)
        if text.ffn_bias:
            yield Weight(f"{prefix}{name}_proj.bias", (size,), 0, block)
    yield Weight(f"{prefix}down_proj.weight", (text.hidden_size, size), 1, block)
    if text.ffn_bias:
        yield Weight(f"{prefix}down_proj.bias", (text.hidden_size,), block=block)


def _mixture(text: TextModel, prefix: str, block: str) -> Iterator[Weight]:
    experts, hidden = text.experts, text.hidden_size
    assert experts is not None
    yield Weight(f"{prefix}gate.weight", (experts.count, hidden), block=block)
    up, down = (
        (experts.count, 2 * experts.ffn_size, hidden),
        (
            experts.count,
            hidden,
            experts.ffn_size,
        ),
    )
    yield Weight(f"{prefix}experts.gate_up_proj", up, block=block, is_expert=True)
    yield Weight(f"{prefix}experts.down_proj", down, block=block, is_expert=True)
    if experts.shared_ffn_size:
        yield from _gated(text, f"{prefix}shared_experts.", block, experts.shared_ffn_size)


def _tower(tower: VisionTower) -> Iterator[Weight]:
    if tower.model_type == "qwen2_5_vl":
        yield from _qwen_tower(tower)
        return
    name = "vision_model" if tower.model_type == "smolvlm" else "vision_tower"
    yield from _clip_like_tower(tower, f"model.{name}.")
    yield from _projector(tower)


def _clip_like_tower(tower: VisionTower, prefix: str) -> Iterator[Weight]:
    """CLIP (Radford et al. 2021, arXiv:2103.00020) or SigLIP (Zhai et al. 2023,
    arXiv:2303.15343)."""
    size, side = tower.hidden_size, tower.patch_size
    is_clip = tower.model_type == "llava"
    positions = (tower.image_size // side) ** 2 + is_clip
    if is_clip:
        yield Weight(f"{prefix}embeddings.class_embedding", (size,))
    yield Weight(f"{prefix}embeddings.patch_embedding.weight", (size, 3, side, side))
    if not is_clip:
        yield Weight(f"{prefix}embeddings.patch_embedding.bias", (size,))
    yield Weight(f"{prefix}embeddings.position_embedding.weight", (positions, size))
    if is_clip:
        yield from _affine(f"{prefix}pre_layrnorm", (size,))
    for layer in range(tower.num_layers):
        for weight in _tower_layer(tower, layer, f"{prefix}encoder.layers.{layer}."):
            yield replace(weight, is_unused=layer >= tower.num_used_layers)
    for weight in _affine(f"{prefix}post_layernorm", (size,)):
        yield replace(weight, is_unused=is_clip)
    if tower.model_type == "gemma3":
        yield from _pooling_head(tower, f"{prefix}head.")


def _tower_layer(tower: VisionTower, layer: int, prefix: str) -> Iterator[Weight]:
    size, block = tower.hidden_size, f"{VISION}.{layer}"
    for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
        yield from _affine(f"{prefix}self_attn.{name}", (size, size), block)
    yield from _affine(f"{prefix}layer_norm1", (size,), block)
    yield from _affine(f"{prefix}mlp.fc1", (tower.ffn_size, size), block)
    yield from _affine(f"{prefix}mlp.fc2", (size, tower.ffn_size), block)
    yield from _affine(f"{prefix}layer_norm2", (size,), block)


def _pooling_head(tower: VisionTower, prefix: str) -> Iterator[Weight]:
    """SigLIP's own output, which Gemma 3 does not use but transformers builds."""
    size = tower.hidden_size
    yield Weight(f"{prefix}probe", (1, 1, size))
    yield Weight(f"{prefix}attention.in_proj_weight", (3 * size, size))
    yield Weight(f"{prefix}attention.in_proj_bias", (3 * size,))
    yield from _affine(f"{prefix}attention.out_proj", (size, size))
    yield from _affine(f"{prefix}layernorm", (size,))
    yield from _affine(f"{prefix}mlp.fc1", (tower.ffn_size, size))
    yield from _affine(f"{prefix}mlp.fc2", (size, tower.ffn_size))


def _projector(tower: VisionTower) -> Iterator[Weight]:
    size, out = tower.hidden_size, tower.output_size
    if tower.model_type == "llava":
        yield from _affine("model.multi_modal_projector.linear_1", (out, size))
        yield from _affine("model.multi_modal_projector.linear_2", (out, out))
    elif tower.model_type == "gemma3":
        yield Weight("model.multi_modal_projector.mm_input_projection_weight", (size, out))
        yield Weight("model.multi_modal_projector.mm_soft_emb_norm.weight", (size,))
    else:
        wide = size * tower.merge_size**2
        yield Weight("model.connector.modality_projection.proj.weight", (out, wide))


def _qwen_tower(tower: VisionTower) -> Iterator[Weight]:
    """Bai et al. 2025, arXiv:2502.13923: RMS norms and a gated feed-forward part."""
    size, side, prefix = tower.hidden_size, tower.patch_size, "model.visual."
    yield Weight(f"{prefix}patch_embed.proj.weight", (size, 3, 2, side, side))
    for layer in range(tower.num_layers):
        block, inner = f"{VISION}.{layer}", f"{prefix}blocks.{layer}."
        yield Weight(f"{inner}norm1.weight", (size,), block=block)
        yield Weight(f"{inner}norm2.weight", (size,), block=block)
        yield from _affine(f"{inner}attn.qkv", (3 * size, size), block)
        yield from _affine(f"{inner}attn.proj", (size, size), block)
        for name in ("gate_proj", "up_proj"):
            yield from _affine(f"{inner}mlp.{name}", (tower.ffn_size, size), block)
        yield from _affine(f"{inner}mlp.down_proj", (size, tower.ffn_size), block)
    wide = size * tower.merge_size**2
    yield Weight(f"{prefix}merger.ln_q.weight", (size,))
    yield from _affine(f"{prefix}merger.mlp.0", (wide, wide))
    yield from _affine(f"{prefix}merger.mlp.2", (tower.output_size, wide))


def _affine(name: str, shape: tuple[int, ...], block: str | None = None) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", shape, block=block)
    yield Weight(f"{name}.bias", shape[:1], block=block)
