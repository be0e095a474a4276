"""Shapes of published models: what parallel sizes must divide.

From the ``config.json`` that each model is published with; a model that is not here is not
judged. A recipe that has its architecture in ``policy.model_config`` is judged by that.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from evenkeel.recipes.lint.facts import Facts


class Shape(NamedTuple):
    """Counts of one model; None where unknown or absent."""

    heads: int | None
    kv_heads: int | None
    layers: int | None
    experts: int | None = None


_KNOWN: tuple[tuple[str, Shape], ...] = (
    (r"llama-?3\.2-1b", Shape(32, 8, 16)),
    (r"llama-?3\.2-3b", Shape(24, 8, 28)),
    (r"llama-?3(\.1)?-8b", Shape(32, 8, 32)),
    (r"llama-?3(\.[13])?-70b", Shape(64, 8, 80)),
    (r"llama-?3\.1-405b", Shape(128, 8, 126)),
    (r"qwen2\.5(-math|-coder)?-0\.5b", Shape(14, 2, 24)),
    (r"qwen2\.5(-math|-coder)?-1\.5b", Shape(12, 2, 28)),
    (r"qwen2\.5(-math|-coder)?-3b", Shape(16, 2, 36)),
    (r"qwen2\.5(-math|-coder)?-7b", Shape(28, 4, 28)),
    (r"qwen2\.5(-math|-coder)?-14b", Shape(40, 8, 48)),
    (r"qwen2\.5(-math|-coder)?-32b", Shape(40, 8, 64)),
    (r"qwen2\.5(-math|-coder)?-72b", Shape(64, 8, 80)),
    (r"qwen3-0\.6b", Shape(16, 8, 28)),
    (r"qwen3-1\.7b", Shape(16, 8, 28)),
    (r"qwen3-4b", Shape(32, 8, 36)),
    (r"qwen3-8b", Shape(32, 8, 36)),
    (r"qwen3-14b", Shape(40, 8, 40)),
    (r"qwen3-32b", Shape(64, 8, 64)),
    (r"qwen3-30b-a3b", Shape(32, 4, 48, 128)),
    (r"qwen3-235b-a22b", Shape(64, 4, 94, 128)),
    (r"gemma-3-1b", Shape(4, 1, 26)),
    (r"gemma-3-4b", Shape(8, 4, 34)),
    (r"gemma-3-12b", Shape(16, 8, 48)),
    (r"gemma-3-27b", Shape(32, 16, 62)),
    (r"deepseek-v3", Shape(128, None, 61, 256)),
)
_PATTERNS = tuple(
    (re.compile(rf"(?:^|[/_-])(?:meta-)?{pattern}(?![0-9.])"), shape) for pattern, shape in _KNOWN
)
_CONFIG = {
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "layers": ("num_hidden_layers", "n_layer"),
    "experts": ("n_routed_experts", "num_experts", "num_local_experts"),
}


def shape_of(facts: Facts) -> tuple[Shape, str] | None:
    """The model's shape and where it is known from, or None."""
    found = {
        count: facts.count(
            *(
                f"policy.model_config.{prefix}{key}"
                for prefix in ("", "text_config.")
                for key in keys
            )
        )
        for count, keys in _CONFIG.items()
    }
    if found["heads"] is not None or found["layers"] is not None:
        return Shape(**found), "policy.model_config"
    name = facts.get("policy.model_name")
    if name is None or not isinstance(name.value, str):
        return None
    lowered = name.value.lower()
    for pattern, shape in _PATTERNS:
        if pattern.search(lowered):
            return shape, name.value
    return None
