"""A LLaVA's vision tower and projector in megatron-core's words.

CLIP's tower (Radford et al. 2021, arXiv:2103.00020) and two matrices between it and the language
model (Liu et al. 2023, arXiv:2310.03744). What megatron-core would compute otherwise is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.transformer import TransformerConfig

from evenkeel.errors import InputError
from evenkeel.recipes.model_support import check_tower_ranks
from evenkeel.recipes.schema import Policy
from evenkeel.training import models
from evenkeel.training.backends.megatron.architecture import activation, numerics

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose embeddings are what their layers take, so that features can stand among them;
with experts they have not been tried."""


@dataclass(frozen=True)
class VisionArchitecture:
    """What ``LLaVAModel`` has to be told beside the language model."""

    tower: TransformerConfig
    projector: TransformerConfig
    image_size: int
    """Pixels of each side."""
    patch_size: int
    drops_class_token: bool
    """An image's tokens are its patches alone."""
    image_token_id: int


def vision_architecture(
    config: PretrainedConfig, policy: Policy, device: torch.device
) -> VisionArchitecture | None:
    """Megatron-core's description of what sees the images; None for a model of text.

    Raises:
        InputError: the model has a feature, or the recipe a layout, that cannot be had.
    """
    if not models.sees_images(config):
        return None
    see, text = config.vision_config, config.get_text_config()
    _check_kinds(config)
    _check_divisible(config, policy.parallel.tensor_parallel_size)
    shared = {
        **numerics(policy, device),
        "normalization": "LayerNorm",
        "persist_layer_norm": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "tensor_model_parallel_size": policy.parallel.tensor_parallel_size,
    }
    tower = TransformerConfig(
        **shared,
        num_layers=num_tower_layers(config),
        hidden_size=see.hidden_size,
        ffn_hidden_size=see.intermediate_size,
        num_attention_heads=see.num_attention_heads,
        activation_func=activation(see.hidden_act),
        layernorm_epsilon=see.layer_norm_eps,
    )
    tower.vision_model_type = "clip"
    projector = TransformerConfig(
        **shared,
        num_layers=1,  # it has neither layers nor heads, and the library wants to know of some
        num_attention_heads=text.num_attention_heads,
        hidden_size=text.hidden_size,
        ffn_hidden_size=text.hidden_size,
        activation_func=activation(config.projector_hidden_act),
        add_bias_linear=config.multimodal_projector_bias,
    )
    return VisionArchitecture(
        tower=tower,
        projector=projector,
        image_size=see.image_size,
        patch_size=see.patch_size,
        drops_class_token=config.vision_feature_select_strategy == "default",
        image_token_id=models.image_token_id(config),
    )


def num_tower_layers(config: PretrainedConfig) -> int:
    """Layers up to the one whose output the projector takes; those above compute nothing of use.

    Raises:
        InputError: it takes several, or none.
    """
    layer, total = config.vision_feature_layer, config.vision_config.num_hidden_layers
    # the first of transformers' hidden states is what the first layer is given
    number = layer if not isinstance(layer, int) or layer >= 0 else total + 1 + layer
    if not isinstance(number, int) or not 1 <= number <= total:
        raise InputError(
            f"policy.model_config.vision_feature_layer is {layer}, and the megatron backend takes "
            f"the output of one of the tower's {total} layers",
            fix=f"set it to a number from {-total} to -1, or policy.backend=fsdp2",
        )
    return number


def _check_kinds(config: PretrainedConfig) -> None:
    see, text = config.vision_config, config.get_text_config()
    for key, found, known in (
        ("vision_config.model_type", see.model_type, ("clip_vision_model",)),
        ("vision_config.num_channels", see.num_channels, (3,)),
        ("vision_config.attention_dropout", see.attention_dropout, (0.0,)),
        ("text_config.model_type", text.model_type, LANGUAGE_MODELS),
    ):
        if found not in known:
            values = " or ".join(map(str, known))
            raise InputError(
                f"policy.model_config.{key} is {found}, and the megatron backend trains a "
                f"{config.model_type} of {values}",
                fix=f"set it to {values}, or policy.backend=fsdp2",
            )
    if see.image_size % see.patch_size:
        raise InputError(
            f"policy.model_config.vision_config.image_size is {see.image_size}, not a multiple of "
            f"patch_size = {see.patch_size}, which megatron-core's tower asks for",
            fix="set policy.backend=fsdp2",
        )


def _check_divisible(config: PretrainedConfig, size: int) -> None:
    see: Any = config.vision_config
    check_tower_ranks(
        size,
        num_attention_heads=see.num_attention_heads,
        intermediate_size=see.intermediate_size,
        hidden_size=config.get_text_config().hidden_size,
    )
