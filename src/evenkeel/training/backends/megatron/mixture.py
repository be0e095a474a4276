"""Mixtures of experts and DeepSeek's latent attention, in megatron-core's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenkeel.errors import InputError
from evenkeel.recipes import model_support
from evenkeel.recipes.schema import Moe, Policy

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_DEEPSEEK = ("deepseek_v2", "deepseek_v3")


def has_experts(config: PretrainedConfig) -> bool:
    """Whether some layers route tokens to experts."""
    return config.model_type in model_support.MEGATRON_MIXTURES


def has_latent_attention(config: PretrainedConfig) -> bool:
    """Whether keys and values are made of a common low-rank vector (arXiv:2405.04434)."""
    return config.model_type in _DEEPSEEK


def num_experts(config: PretrainedConfig) -> int:
    """Routed experts of one layer."""
    for key in ("n_routed_experts", "num_local_experts", "num_experts"):
        if (number := getattr(config, key, None)) is not None:
            return int(number)
    raise InputError(f"the configuration of {config.model_type} does not say how many experts")


def sparse_layers(config: PretrainedConfig) -> list[int]:
    """Per layer: 1 where it has experts, 0 where it has one MLP."""
    layers = range(config.num_hidden_layers)
    if config.model_type in _DEEPSEEK:
        return [int(layer >= config.first_k_dense_replace) for layer in layers]
    if config.model_type == "qwen3_moe":
        dense = set(config.mlp_only_layers or ())
        step = config.decoder_sparse_step
        return [int(layer not in dense and (layer + 1) % step == 0) for layer in layers]
    return [1 for _ in layers]


def gathers_tokens(config: PretrainedConfig, policy: Policy) -> bool:
    """Whether ranks that share experts gather each other's tokens, and so need equally many."""
    return model_support.gathers_tokens(policy, num_experts(config) if has_experts(config) else 0)


def experts(config: PretrainedConfig, policy: Policy) -> dict[str, Any]:
    """Fields of ``TransformerConfig`` for the layers with experts.

    Raises:
        InputError: routing is of a kind that is not there.
    """
    options = policy.moe or Moe()
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    shared = getattr(config, "n_shared_experts", None) or 0
    balanced = options.router_aux_loss_coef > 0
    return {
        "num_moe_experts": num_experts(config),
        "moe_layer_freq": sparse_layers(config),
        "moe_ffn_hidden_size": width,
        "moe_shared_expert_intermediate_size": width * shared or None,
        "moe_router_topk": config.num_experts_per_tok,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "aux_loss" if balanced else "none",
        "moe_aux_loss_coeff": options.router_aux_loss_coef,
        "moe_z_loss_coeff": options.router_z_loss_coef or None,
        "moe_token_dispatcher_type": options.token_dispatcher.value,
        "moe_grouped_gemm": options.grouped_gemm,
        "moe_permute_fusion": False,
        **_scores(config),
    }


def _scores(config: PretrainedConfig) -> dict[str, Any]:
    """How the router's logits become the weights of the chosen experts."""
    if config.model_type == "deepseek_v3":
        groups = config.n_group if config.n_group and config.n_group > 1 else None
        return {
            "moe_router_score_function": "sigmoid",
            "moe_router_enable_expert_bias": True,
            "moe_router_bias_update_rate": 0.0,  # the published bias stays, as in transformers
            "moe_router_num_groups": groups,
            "moe_router_group_topk": config.topk_group if groups else None,
            "moe_router_topk_scaling_factor": config.routed_scaling_factor,
        }
    # softmax over the chosen logits is softmax over all, chosen and normalised
    normalised = config.model_type == "mixtral" or bool(config.norm_topk_prob)
    fields: dict[str, Any] = {
        "moe_router_score_function": "softmax",
        "moe_router_pre_softmax": not normalised,
    }
    if config.model_type == "deepseek_v2":
        if config.topk_method not in {"greedy", "gready"}:
            raise InputError(
                f"policy.model_config.topk_method is {config.topk_method!r}, and the megatron "
                "backend knows greedy",
                fix="set policy.backend=fsdp2",
            )
        fields["moe_router_topk_scaling_factor"] = config.routed_scaling_factor
    return fields


def latent_attention(config: PretrainedConfig) -> dict[str, Any]:
    """Fields of ``MLATransformerConfig``."""
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind not in {"default", "yarn"}:
        raise InputError(
            f"the megatron backend does not train latent attention with position embeddings of "
            f"type {kind}"
        )
    fields: dict[str, Any] = {
        "multi_latent_attention": True,
        "q_lora_rank": config.q_lora_rank,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_head_dim": config.qk_nope_head_dim,
        "qk_pos_emb_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "num_query_groups": config.num_attention_heads,
        "qk_layernorm": True,
        "rope_type": "yarn" if kind == "yarn" else "rope",
        "rotary_base": rope["rope_theta"],
    }
    if kind == "yarn":
        fields |= {
            "rotary_scaling_factor": rope["factor"],
            "original_max_position_embeddings": rope["original_max_position_embeddings"],
            "beta_fast": rope.get("beta_fast", 32.0),
            "beta_slow": rope.get("beta_slow", 1.0),
            "mscale": rope.get("mscale", 1.0),
            "mscale_all_dim": rope.get("mscale_all_dim", 0.0),
        }
    else:
        fields |= {"rotary_scaling_factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    return fields
