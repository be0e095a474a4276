"""What megatron-core needs replaced to train without a GPU or without Transformer Engine.

The library asks for CUDA by name in places where nothing of CUDA is needed. Each patch below stands
for one such place; none changes a number. They are applied once per process, only when the ranks
compute on the CPU or the engine is not installed, and only to the library's own modules where that
is possible.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.transformer.torch_norm import WrappedTorchNorm

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Patch:
    """One attribute replaced."""

    module: str
    """Of the library; "torch" where the library uses a method of tensors."""
    attribute: str
    """Within the module; below its own ``torch`` where it starts so."""
    stands_for: str
    """The calls of the library."""
    replacement: Callable[[Any], Any]
    """From the original to what takes its place."""


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    def made(*args: Any, **options: Any) -> Any:
        if "cuda" in str(options.get("device", "")):
            options["device"] = CPU
        options.pop("pin_memory", None)
        return factory(*args, **options)

    return made


def _cpu() -> torch.device:
    return CPU


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _itself(tensor: Any, *_: Any, **__: Any) -> Any:
    return tensor


def _reported_as_cuda(original: Callable[..., Any]) -> Callable[..., Any]:
    def type_of(tensor: Any, *args: Any, **options: Any) -> Any:
        found = original(tensor, *args, **options)
        return found.replace("torch.", "torch.cuda.", 1) if isinstance(found, str) else found

    return type_of


_SCHEDULES = "megatron.core.pipeline_parallel.schedules"
_BUFFERS = "megatron.core.distributed.param_and_grad_buffer"
_OPTIMIZER = "megatron.core.optimizer.optimizer"
_CLIP = "megatron.core.optimizer.clip_grads"
_RANDOM = "megatron.core.tensor_parallel.random"
_ROPE = "megatron.core.models.common.embeddings.rope_utils"
_UTILS = "megatron.core.utils"

PATCHES = (
    Patch(
        "torch", "cuda.current_device", "device of new tensors, everywhere", lambda _: lambda: CPU
    ),
    Patch("torch", "cuda.synchronize", "after stages exchanged shapes", lambda _: _nothing),
    Patch(
        "torch", "Tensor.type", "DistributedOptimizer sorts weights by type()", _reported_as_cuda
    ),
    Patch(
        "torch",
        "Tensor.cuda",
        "optimizer states gathered for a checkpoint, positions of a tower's patches",
        lambda _: _itself,
    ),
    Patch(
        _RANDOM,
        "_get_cuda_rng_state",
        "recomputation keeps a generator",
        lambda _: _nothing,
    ),
    Patch(_RANDOM, "_set_cuda_rng_state", "and queues setting it", lambda _: _nothing),
    Patch(_SCHEDULES, "torch.zeros", "total_num_tokens of every schedule", _on_cpu),
    Patch(_OPTIMIZER, "torch.tensor", "MixedPrecisionOptimizer._scale_one", _on_cpu),
    Patch(_CLIP, "torch.zeros", "overflow flag of get_grad_norm_fp32", _on_cpu),
    Patch(_ROPE, "torch.tensor", "get_pos_emb_on_this_cp_rank pins memory", _on_cpu),
    Patch(_UTILS, "torch.tensor", "result of local_multi_tensor_l2_norm", _on_cpu),
)

WITHOUT_ENGINE = (
    Patch(
        "megatron.core.transformer.moe.moe_utils",
        "te_general_gemm",
        "router_gating_linear asks for it without looking whether it was found",
        lambda _: None,
    ),
    Patch(
        "megatron.core.transformer.multi_latent_attention",
        "TELinear",
        "isinstance() of a class that was not found",
        lambda _: _Absent,
    ),
    Patch(
        "megatron.core.models.multimodal.llava_model",
        "CLIPViTModel",
        "its norm is torch's LayerNorm, which cannot be built from a configuration",
        lambda original: partial(original, ln_pre_impl=WrappedTorchNorm),
    ),
)
"""Needed wherever Transformer Engine is not installed, on a GPU too."""


class _Absent:
    """Nothing is an instance of it."""


class _Overlay:
    """A module with some names replaced; everything else is the module's."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


_originals: dict[Patch, Any] = {}
"""What each applied patch has replaced."""


def apply(patches: tuple[Patch, ...]) -> None:
    """Apply each patch that has not been applied to this process.

    Raises:
        AttributeError: the library has no such module or class (any more).
    """
    for patch in patches:
        if patch not in _originals:
            owner, name = _place(patch)
            # the library defines some names only where it finds what they stand for
            _originals[patch] = getattr(owner, name, None)
            setattr(owner, name, patch.replacement(_originals[patch]))


def revert(patch: Patch) -> None:
    """Take an applied patch back: tests ask so whether the library still needs it."""
    owner, name = _place(patch)
    setattr(owner, name, _originals.pop(patch))


def _place(patch: Patch) -> tuple[Any, str]:
    owner: Any = importlib.import_module(patch.module)
    *path, name = patch.attribute.split(".")
    for step in path:
        inner = getattr(owner, step)
        if inner is torch:  # the library's name for it, not torch itself
            inner = _Overlay(torch)
            setattr(owner, step, inner)
        owner = inner
    return owner, name
