"""The shape of a model, from the keys of its transformers configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Experts:
    """Feed-forward parts that tokens are routed to."""

    count: int
    per_token: int
    ffn_size: int
    shared_ffn_size: int
    """Of the part that every token passes; 0: there is none."""
    sparse_layers: frozenset[int]
    """Layers that have experts; the others have one feed-forward part."""


@dataclass(frozen=True)
class LatentAttention:
    """Keys and values made of a common low-rank vector (DeepSeek-AI 2024, arXiv:2405.04434)."""

    query_rank: int | None
    kv_rank: int
    nope_size: int
    rope_size: int
    value_size: int

    @property
    def query_size(self) -> int:
        """Features of one head's query and key."""
        return self.nope_size + self.rope_size


@dataclass(frozen=True)
class TextModel:
    """A decoder of text."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    tied: bool
    """The output layer is the embedding table."""
    qkv_bias: bool = False
    attention_bias: bool = False
    """The output projection of attention has a bias, too."""
    ffn_bias: bool = False
    has_head_norms: bool = False
    norms_per_layer: int = 2
    sliding_window: int | None = None
    """Tokens that some layers see; such layers need a mask where sequences are longer."""
    experts: Experts | None = None
    latent: LatentAttention | None = None

    @property
    def query_width(self) -> int:
        """Features of all heads' queries."""
        return self.num_heads * (self.latent.query_size if self.latent else self.head_dim)

    @property
    def value_width(self) -> int:
        """Features of what attention gives to its output projection."""
        return self.num_heads * (self.latent.value_size if self.latent else self.head_dim)

    @property
    def kv_width(self) -> int:
        """Features of all heads' keys (without latent attention, of all values as well)."""
        return self.query_width if self.latent else self.num_kv_heads * self.head_dim

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return self.experts is not None and layer in self.experts.sparse_layers


@dataclass(frozen=True)
class VisionTower:
    """What turns an image into tokens."""

    model_type: str
    """Of the whole model: llava, gemma3, smolvlm or qwen2_5_vl."""
    hidden_size: int
    num_heads: int
    """Where the configuration says nothing, CLIP's."""
    ffn_size: int
    num_layers: int
    patch_size: int
    image_size: int
    """Pixels of one side; 0: images keep their own sizes."""
    merge_size: int
    """Patches of one side that become one token."""
    output_size: int
    """Features that the language model takes."""
    num_used_layers: int
    """Layers up to the one whose output becomes those features."""

    def patches(self, seq_length: int, max_pixels: int | None) -> int:
        """Patches of the images of one row, at most.

        One image a row is counted, as large as a row of ``seq_length`` tokens holds. SmolVLM cuts
        it into at most 16 tiles beside the whole; Qwen takes up to ``max_pixels`` of it, by
        default 12,845,056, its processor's own limit.
        """
        per_side = self.image_size // self.patch_size
        if self.model_type == "smolvlm":
            tokens = (per_side // self.merge_size) ** 2
            return per_side**2 * min(17, max(1, seq_length // tokens))
        if self.model_type == "qwen2_5_vl":
            pixels = max_pixels or 12_845_056
            return min(pixels // self.patch_size**2, seq_length * self.merge_size**2)
        return per_side**2 + (self.model_type == "llava")


@dataclass(frozen=True)
class Model:
    """A model of text, with eyes or without."""

    text: TextModel
    vision: VisionTower | None = None


_TIED = {"gemma", "gemma2", "gemma3_text"}
"""Model types whose output layer is the embedding table unless the configuration says no."""
_HEAD_DIM = {"qwen3": 128, "gemma": 256, "gemma3_text": 256}
"""Where transformers does not take hidden_size / num_attention_heads for granted."""
_DENSE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "qwen2_5_vl_text")
_SPARSE = ("mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3")
_VISION = ("llava", "gemma3", "smolvlm", "qwen2_5_vl")
KNOWN = (*_DENSE, *_SPARSE, *_VISION)
"""Model types whose weights and activations are counted."""


@dataclass(frozen=True)
class _Keys:
    """Reads a section of a configuration; ``where`` names it in messages."""

    section: Mapping[str, Any]
    where: str

    def number(self, key: str, default: int | None = None) -> int:
        value = self.section.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(
                f"{self.where}.{key} is {value!r}, and the memory of the model depends on it"
                if value is not None
                else f"{self.where} has no {key}, and the memory of the model depends on it",
                fix=f"set {self.where}.{key} to the whole number in the model's config.json",
            )
        return value

    def optional(self, key: str) -> int | None:
        return None if self.section.get(key) is None else self.number(key)

    def inner(self, key: str) -> _Keys:
        return _Keys(self.section.get(key) or {}, f"{self.where}.{key}")


def parse(config: Mapping[str, Any], where: str = "policy.model_config") -> Model:
    """The shape that the keys of a transformers configuration describe.

    Args:
        config: as ``policy.model_config`` or a ``config.json``.
        where: what messages call it.

    Raises:
        InputError: the model type is not among ``KNOWN``, or a key is missing.
    """
    keys = _Keys(config, where)
    kind = config.get("model_type")
    if kind not in KNOWN:
        raise InputError(
            f"{where}.model_type is {kind!r}{did_you_mean(str(kind), KNOWN)}, whose weights are "
            f"not counted yet; known are {', '.join(KNOWN)}",
            fix=f"describe the model in {where} by a type of the same layers",
        )
    if kind not in _VISION:
        return Model(_text(keys, kind, bool(config.get("tie_word_embeddings", kind in _TIED))))
    inner = keys.inner("text_config")
    text_kind = inner.section.get("model_type", "qwen2_5_vl_text")
    tied = bool(config.get("tie_word_embeddings", kind == "gemma3"))
    text = _text(inner, text_kind, tied)
    return Model(text, _vision(keys, kind, text.hidden_size))


def _text(keys: _Keys, kind: str, tied: bool) -> TextModel:
    hidden, heads = keys.number("hidden_size"), keys.number("num_attention_heads")
    layers = keys.number("num_hidden_layers")
    bias = bool(keys.section.get("attention_bias", False))
    return TextModel(
        model_type=kind,
        vocab_size=keys.number("vocab_size"),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=keys.number("num_key_value_heads", heads),
        head_dim=keys.optional("head_dim") or _HEAD_DIM.get(kind, hidden // max(heads, 1)),
        ffn_size=keys.number("intermediate_size"),
        tied=tied,
        qkv_bias=bias or kind.startswith("qwen2"),
        attention_bias=bias,
        ffn_bias=bool(keys.section.get("mlp_bias", False)),
        has_head_norms=kind in {"qwen3", "qwen3_moe", "gemma3_text"},
        norms_per_layer=4 if kind == "gemma3_text" else 2,
        sliding_window=keys.optional("sliding_window") if kind == "gemma3_text" else None,
        experts=_experts(keys, kind, layers) if kind in _SPARSE else None,
        latent=_latent(keys) if kind.startswith("deepseek") else None,
    )


def _experts(keys: _Keys, kind: str, layers: int) -> Experts:
    names = {"mixtral": "num_local_experts", "qwen3_moe": "num_experts"}
    all_layers = range(layers)
    if kind == "mixtral":
        ffn, sparse = keys.number("intermediate_size"), set(all_layers)
    elif kind == "qwen3_moe":
        step, dense = keys.number("decoder_sparse_step", 1), keys.section.get("mlp_only_layers")
        ffn = keys.number("moe_intermediate_size")
        sparse = {n for n in all_layers if n not in (dense or ()) and (n + 1) % max(step, 1) == 0}
    else:
        ffn = keys.number("moe_intermediate_size")
        sparse = {n for n in all_layers if n >= keys.number("first_k_dense_replace", 0)}
    return Experts(
        count=keys.number(names.get(kind, "n_routed_experts")),
        per_token=keys.number("num_experts_per_tok"),
        ffn_size=ffn,
        shared_ffn_size=ffn * keys.number("n_shared_experts", 0),
        sparse_layers=frozenset(sparse),
    )


def _latent(keys: _Keys) -> LatentAttention:
    return LatentAttention(
        query_rank=keys.optional("q_lora_rank"),
        kv_rank=keys.number("kv_lora_rank"),
        nope_size=keys.number("qk_nope_head_dim"),
        rope_size=keys.number("qk_rope_head_dim"),
        value_size=keys.number("v_head_dim"),
    )


def _vision(keys: _Keys, kind: str, text_size: int) -> VisionTower:
    section = keys.inner("vision_config")
    own_sizes = kind == "qwen2_5_vl"
    merge = {"smolvlm": keys.number("scale_factor", 2), "llava": 1}.get(kind, 4)
    hidden, ffn = section.number("hidden_size"), section.number("intermediate_size")
    heads = section.number("num_heads" if own_sizes else "num_attention_heads", 12)
    num_layers = section.number("depth" if own_sizes else "num_hidden_layers")
    return VisionTower(
        model_type=kind,
        hidden_size=hidden,
        num_heads=heads,
        ffn_size=ffn,
        num_layers=num_layers,
        patch_size=section.number("patch_size"),
        image_size=0 if own_sizes else section.number("image_size"),
        merge_size=section.number("spatial_merge_size", 2) if own_sizes else merge,
        output_size=text_size,
        num_used_layers=_used_layers(keys, num_layers) if kind == "llava" else num_layers,
    )


def _used_layers(keys: _Keys, num_layers: int) -> int:
    """Of a LLaVA, whose projector takes the last but one where nothing else is said."""
    layer = keys.section.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        return num_layers  # of several
    return min(layer if layer >= 0 else max(0, num_layers + 1 + layer), num_layers)


def published(models_dir: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name on the hub, keys) of the models that a tree of recipes describes.

    Args:
        models_dir: a folder of YAML files as ``examples/configs/models``; it need not exist.
    """
    from evenkeel.recipes import config

    for path in sorted(models_dir.glob("*.yaml")):
        policy = config.load_untyped(path).values.get("policy", {})
        if policy.get("model_name") and policy.get("model_config"):
            yield policy["model_name"], policy["model_config"]


def keys_of(
    config: Mapping[str, Any], name: str | None, folder: str | None, models_dir: Path, where: str
) -> Mapping[str, Any]:
    """The keys of a model: a recipe's own, or a local ``config.json``, or the tree's for its name.

    Args:
        config: the recipe's ``model_config``; where it is empty, the others are asked.
        name: the recipe's ``model_name``.
        folder: the recipe's ``hf_path``.
        models_dir: see ``published``.
        where: the section of the recipe, such as ``policy``.

    Raises:
        InputError: nobody knows the model's shape.
    """
    if config:
        return config
    for place in (folder, name):
        path = Path(place or "") / "config.json"
        if place and path.is_file():
            read: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return read
    known = dict(published(models_dir))
    if name in known:
        return known[name]
    raise InputError(
        f"{where} names {name or folder or 'no model'}, whose shape is not known here: no "
        f"{where}.model_config, no local config.json, no file in {models_dir} of that model_name",
        fix=f"set {where}.model_config to the keys of the model's config.json"
        f"{did_you_mean(name or '', known)}",
    )
