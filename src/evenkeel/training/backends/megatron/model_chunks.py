"""This rank's pieces of the model, built without weights and wrapped for data parallelism."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.transformer import MegatronModule, TransformerConfig
from megatron.core.transformer.module import Float16Module
from torch import nn

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Policy
from evenkeel.training.backends.megatron import embedding
from evenkeel.training.backends.megatron.architecture import Architecture
from evenkeel.training.backends.megatron.layers import FusedAttention, RmsNorm
from evenkeel.training.backends.megatron.layout import Layout
from evenkeel.training.backends.megatron.llava import Llava
from evenkeel.training.backends.megatron.vision_architecture import VisionArchitecture


def build(
    architecture: Architecture,
    layout: Layout,
    policy: Policy,
    device: torch.device,
    vision: VisionArchitecture | None = None,
) -> list[MegatronModule]:
    """One model per piece of the stack that this rank holds; weights are not initialised.

    With ``vision`` the first piece sees images.

    Raises:
        InputError: the model cannot be divided as the recipe asks.
    """
    last = len(layout.chunks) - 1
    try:
        return [
            _chunk(
                architecture,
                vision,
                policy,
                device,
                stage,
                is_first=layout.is_first_stage and index == 0,
                is_last=layout.is_last_stage and index == last,
            )
            for index, stage in enumerate(layout.chunks)
        ]
    except AssertionError as error:  # how the library checks sizes
        raise InputError(
            f"megatron-core refuses this layout of the model: {error}",
            fix="change policy.parallel, such as the number of pipeline stages or of their layers",
        ) from error


def uses_transformer_engine(device: torch.device) -> bool:
    """Whether layers are those of Transformer Engine: on GPUs where it is installed."""
    return device.type == "cuda" and find_spec("transformer_engine") is not None


def takes_masks(policy: Policy, device: torch.device) -> bool:
    """Whether attention is ours, which packed rows and padding on the left need."""
    needs_masks = policy.sequence_packing.enabled or policy.generation is not None
    return needs_masks or not uses_transformer_engine(device)


def _chunk(
    architecture: Architecture,
    vision: VisionArchitecture | None,
    policy: Policy,
    device: torch.device,
    stage: int | None,
    *,
    is_first: bool,
    is_last: bool,
) -> MegatronModule:
    config = architecture.config
    engine = uses_transformer_engine(device)
    spec = get_gpt_decoder_block_spec(
        config, use_transformer_engine=engine, normalization="RMSNorm", vp_stage=stage
    )
    _replace_parts(spec, norms=not engine, attention=takes_masks(policy, device))
    chunk = GPTModel(
        config,
        spec,
        architecture.vocab_size,
        architecture.max_positions,
        pre_process=is_first,
        post_process=is_last,
        share_embeddings_and_output_weights=architecture.tied,
        position_embedding_type="rope",
        scatter_embedding_sequence_parallel=vision is None,
        vp_stage=stage,
    ).to(device)
    if architecture.inverse_frequencies is not None:
        chunk.rotary_pos_emb.inv_freq = architecture.inverse_frequencies.to(device)
    if policy.moe is not None and policy.moe.freeze_router:
        for name, weight in chunk.named_parameters():
            weight.requires_grad_(".router." not in name)
    if is_first and architecture.padding_id is not None:
        embedding.leave_padding_untrained(chunk.embedding.word_embeddings, architecture.padding_id)
    if is_first and architecture.embedding_scale != 1.0:
        embedding.scale(chunk.embedding.word_embeddings, architecture.embedding_scale)
    return chunk if vision is None else _with_eyes(chunk, vision, policy).to(device)


def _with_eyes(chunk: GPTModel, vision: VisionArchitecture, policy: Policy) -> Llava:
    whole, frozen = Llava(chunk, vision), policy.vision
    assert frozen is not None
    whole.freeze(
        freeze_language_model=frozen.freeze_language_model,
        freeze_vision_model=frozen.freeze_vision_tower,
        freeze_vision_projection=frozen.freeze_projector,
    )
    return whole


def _replace_parts(spec: Any, *, norms: bool, attention: bool) -> None:
    """Put our norm and core attention into the layers' specification, in place."""
    for layer in spec.layer_specs:
        parts, inner = layer.submodules, layer.submodules.self_attention.submodules
        if attention:
            inner.core_attention = FusedAttention
        if not norms:
            continue
        parts.input_layernorm = parts.pre_mlp_layernorm = RmsNorm
        for name in ("q_layernorm", "k_layernorm", "kv_layernorm"):
            if _is_norm(getattr(inner, name, None)):
                setattr(inner, name, RmsNorm)
    if norms:
        spec.layer_norm = RmsNorm


def _is_norm(part: Any) -> bool:
    return part is not None and "Identity" not in getattr(part, "__name__", "")


def in_precision(chunks: Sequence[MegatronModule], config: TransformerConfig) -> list[nn.Module]:
    """The chunks, with casts at both ends of the model where it computes in bf16."""
    if not config.bf16:
        return list(chunks)
    return [Float16Module(config, chunk) for chunk in chunks]


def wrap(modules: Sequence[nn.Module], config: TransformerConfig) -> list[nn.Module]:
    """Sum gradients in fp32 over data-parallel ranks, once a step."""
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=True, overlap_grad_reduce=False
    )
    config.finalize_model_grads_func = finalize_model_grads
    return [
        DistributedDataParallel(config, settings, module, disable_bucketing=index > 0)
        for index, module in enumerate(modules)
    ]


def unwrapped(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """What ``wrap`` was given, without the fp32 tensors that the library hung on its weights."""
    inner = [module.get_submodule("module") for module in modules]
    for module in inner:
        for weight in module.parameters():
            for name in ("main_grad", "main_param"):
                if hasattr(weight, name):
                    delattr(weight, name)
    return inner
