"""From a transformers configuration to megatron-core's: the same function, other words.

A feature of an architecture that megatron-core lacks is refused here, never left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from megatron.core.activations import quick_gelu
from megatron.core.transformer import MLATransformerConfig, TransformerConfig
from torch import Tensor

from evenkeel.errors import InputError
from evenkeel.recipes.model_support import (
    check_experts_on_megatron,
    check_megatron_biases,
    check_megatron_family,
)
from evenkeel.recipes.schema import Policy, Precision
from evenkeel.training.backends.megatron import mixture
from evenkeel.training.backends.tensor_parallel import check_divisible

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
}


@dataclass(frozen=True)
class Architecture:
    """What ``GPTModel`` has to be told."""

    config: TransformerConfig
    vocab_size: int
    max_positions: int
    tied: bool
    """Whether the output layer is the embedding table."""
    inverse_frequencies: Tensor | None
    """Of rotary position embeddings, (head_dim / 2); None where attention makes its own."""
    embedding_scale: float
    """Embeddings are multiplied by it (Gemma)."""
    padding_id: int | None
    """The token whose embedding is not trained where it is given."""


def check_family(config: PretrainedConfig) -> None:
    """Raise an error for an architecture that this backend would train as something else.

    Raises:
        InputError: with the model types that it trains.
    """
    family = config.model_type
    check_megatron_family(family)
    windows = [kind for kind in getattr(config, "layer_types", None) or [] if "full" not in kind]
    sliding = getattr(config, "sliding_window", None) and family == "mistral"
    if windows or sliding:
        raise InputError(
            "the model has layers with a sliding window, which the megatron backend does not train",
            fix="set policy.backend=fsdp2, or policy.model_config.sliding_window=null",
        )
    for key in ("attention_dropout", "hidden_dropout"):
        if getattr(config, key, 0.0):
            raise InputError(
                f"policy.model_config.{key} is {getattr(config, key)}; the megatron backend "
                "trains without dropout",
                fix=f"set policy.model_config.{key}=0.0",
            )


def architecture(config: PretrainedConfig, policy: Policy, device: torch.device) -> Architecture:
    """Megatron-core's description of the model that ``config`` describes.

    Of a vision-language model, that of its language model.

    Raises:
        InputError: the model has a feature, or the recipe an option, that cannot be had.
    """
    tied = bool(config.tie_word_embeddings)
    config = config.get_text_config()
    check_family(config)
    check_divisible(config, policy.parallel.tensor_parallel_size, config.vocab_size)
    count = mixture.num_experts(config) if mixture.has_experts(config) else 0
    on_gpu = device.type == "cuda"
    check_experts_on_megatron(policy, config.model_type, count, on_gpu=on_gpu)
    is_latent = mixture.has_latent_attention(config)
    padding: int | None = config.pad_token_id  # below 0, torch counts from the end
    fields = {
        **_shape(config),
        **_norms(config),
        **numerics(policy, device),
        **_parallelism(policy),
        **(mixture.experts(config, policy) if count else {}),
        **(mixture.latent_attention(config) if is_latent else {}),
    }
    kind = MLATransformerConfig if is_latent else TransformerConfig
    try:
        made = kind(**fields)
    except (ValueError, AssertionError) as error:
        raise InputError(f"megatron-core refuses this layout of the model: {error}") from error
    return Architecture(
        config=made,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        tied=tied,
        inverse_frequencies=None if is_latent else _inverse_frequencies(config),
        embedding_scale=math.sqrt(config.hidden_size) if config.model_type == "gemma" else 1.0,
        padding_id=None if padding is None else padding % config.vocab_size,
    )


def _shape(config: PretrainedConfig) -> dict[str, Any]:
    heads = config.num_attention_heads
    act = getattr(config, "hidden_activation", None) or config.hidden_act
    has_biases = getattr(config, "mlp_bias", False) or getattr(config, "attention_bias", False)
    check_megatron_biases(has_biases=bool(has_biases))
    return {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": heads,
        "num_query_groups": config.num_key_value_heads,
        "kv_channels": head_dim(config),
        "activation_func": activation(act),
        "gated_linear_unit": True,
        "add_bias_linear": False,
        "add_qkv_bias": config.model_type == "qwen2",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """What transformers calls so.

    Raises:
        InputError: it is not there.
    """
    if name not in _ACTIVATIONS:
        raise InputError(
            f"the megatron backend has no activation {name!r}", fix="set policy.backend=fsdp2"
        )
    return _ACTIVATIONS[name]


def head_dim(config: PretrainedConfig) -> int:
    """Features of one attention head."""
    explicit: int | None = getattr(config, "head_dim", None)
    return explicit or config.hidden_size // config.num_attention_heads


def _norms(config: PretrainedConfig) -> dict[str, Any]:
    return {
        "normalization": "RMSNorm",
        "layernorm_epsilon": config.rms_norm_eps,
        "layernorm_zero_centered_gamma": config.model_type == "gemma",
        "qk_layernorm": config.model_type in {"qwen3", "qwen3_moe"},
        "persist_layer_norm": False,
    }


def numerics(policy: Policy, device: torch.device) -> dict[str, Any]:
    """Fields of every ``TransformerConfig``: types, recomputation, no fused kernels."""
    dtype = torch.float32 if policy.precision is Precision.FLOAT32 else torch.bfloat16
    recompute: dict[str, Any] = {}
    if policy.activation_checkpointing:
        recompute = {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    return {
        **recompute,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "attention_softmax_in_fp32": True,
        "perform_initialization": False,  # weights come from the transformers model
        "use_cpu_initialization": device.type == "cpu",
        "cuda_graph_scope": [],
        # fused kernels of apex, and casts through torch.jit, are left out on every device
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "masked_softmax_fusion": False,
        "gradient_accumulation_fusion": False,
        "apply_rope_fusion": False,
    }


def _parallelism(policy: Policy) -> dict[str, Any]:
    parallel = policy.parallel
    virtual = parallel.virtual_pipeline_parallel_size or 1
    tensor = parallel.tensor_parallel_size
    return {
        "tensor_model_parallel_size": tensor,
        "pipeline_model_parallel_size": parallel.pipeline_parallel_size,
        "virtual_pipeline_model_parallel_size": virtual if virtual > 1 else None,
        "context_parallel_size": parallel.context_parallel_size,
        "expert_model_parallel_size": parallel.expert_parallel_size,
        "expert_tensor_parallel_size": parallel.expert_tensor_parallel_size,
        "sequence_parallel": parallel.sequence_parallel and tensor > 1,
        "num_layers_in_first_pipeline_stage": parallel.num_layers_in_first_pipeline_stage,
        "num_layers_in_last_pipeline_stage": parallel.num_layers_in_last_pipeline_stage,
        "batch_p2p_sync": False,
        # With pieces that are interleaved over two stages, both neighbours of a rank are the same
        # rank; batched sends and receives between them are then mistaken for one another, and the
        # model trains wrongly without an error.
        "overlap_p2p_comm": virtual > 1,
        "batch_p2p_comm": virtual == 1,
    }


def _inverse_frequencies(config: PretrainedConfig) -> Tensor:
    """As transformers computes them, scaled or not (Su et al. 2021, arXiv:2104.09864)."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if rope.get("partial_rotary_factor", 1.0) != 1.0 or kind in {"dynamic", "longrope"}:
        raise InputError(
            f"the megatron backend does not train position embeddings of {rope}",
            fix="set policy.backend=fsdp2",
        )
    if kind == "default":
        dim = head_dim(config)
        exponents = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
        plain: Tensor = 1.0 / (rope["rope_theta"] ** exponents)
        return plain
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    if factor != 1.0:
        raise InputError(
            f"the megatron backend does not scale attention for position embeddings of type {kind}",
            fix="set policy.backend=fsdp2",
        )
    scaled: Tensor = frequencies
    return scaled
