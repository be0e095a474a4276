"""Tiny models of every architecture that recipes name, for tests on one process and on several."""

from __future__ import annotations

from typing import Any

import torch

from evenkeel.recipes.schema import (
    Backend,
    Cluster,
    Device,
    Moe,
    Policy,
    Precision,
    Recipe,
    TokenDispatcher,
)
from evenkeel.training.data.batches import MicroBatch

BASE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DEEPSEEK = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 16,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "head_dim": 16},
    "llama, tied, llama3 positions": {
        "model_type": "llama",
        "rope_scaling": LLAMA3,
        "tie_word_embeddings": True,
    },
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "gemma": {"model_type": "gemma", "head_dim": 8},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "norm_topk_prob": True,
        "mlp_only_layers": [0],
    },
    "deepseek_v2, yarn": {
        "model_type": "deepseek_v2",
        **DEEPSEEK,
        "q_lora_rank": None,
        "norm_topk_prob": False,
        "topk_method": "greedy",
        "rope_scaling": YARN,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        **DEEPSEEK,
        "q_lora_rank": 12,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.446,
    },
}
"""Of megatron-core, and so of both backends."""

ONLY_TORCH: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "model_type": "gemma3_text",
        "head_dim": 8,
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
    },
}


def recipe_of(model: dict[str, Any], backend: Backend = Backend.MEGATRON, **policy: Any) -> Recipe:
    """A recipe on CPU in fp32 of a model that has the keys of ``BASE``, too."""
    moe = Moe(token_dispatcher=TokenDispatcher.ALLGATHER, grouped_gemm=False)
    return Recipe(
        policy=Policy(
            model_config={**BASE, **model},
            backend=backend,
            precision=Precision.FLOAT32,
            moe=moe if backend is Backend.MEGATRON else None,
            **policy,
        ),
        cluster=Cluster(device=Device.CPU),
    )


def text_batch() -> MicroBatch:
    """Two rows of 16 tokens."""
    ids = torch.randint(3, 64, (2, 16), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(16).expand(2, 16)
    return MicroBatch(ids, ids, positions, torch.ones_like(ids), None, 32, ((0,), (1,)))
