"""megatron-core's distributed AdamW with the torch backend's semantics.

Optimizer states and fp32 weights are sharded over data-parallel ranks (Rajbhandari et al. 2019,
arXiv:1910.02054). The library itself lets norms decay and clips within its step; here matrices
decay and nothing else does, and clipping is a step of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from megatron.core.optimizer import (
    ChainedOptimizer,
    OptimizerConfig,
    ParamKey,
    get_megatron_optimizer,
)
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.optimizer_config import ParamWithNamePredicate
from torch import Tensor, nn

from evenkeel.recipes.schema import Policy, Precision
from evenkeel.training.backends.optimizer import check_settings


class DistributedAdamW:
    """AdamW over the chunks of a model wrapped in megatron-core's ``DistributedDataParallel``."""

    def __init__(self, chunks: Sequence[nn.Module], policy: Policy, *, tied: bool) -> None:
        """Make the optimizer; ``tied``: the output layer is the embedding.

        Raises:
            InputError: a setting is out of range.
        """
        self._settings = settings = policy.optimizer
        check_settings(settings)
        self._chunks = chunks
        bf16 = policy.precision is not Precision.FLOAT32
        config = OptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            min_lr=0.0,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.betas[0],
            adam_beta2=settings.betas[1],
            adam_eps=settings.eps,
            clip_grad=0.0,
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
            use_distributed_optimizer=True,
        )
        stays = ParamWithNamePredicate(
            name="does_not_decay", fn=lambda weight, name: _stays(weight, name, tied)
        )
        self.library: ChainedOptimizer = get_megatron_optimizer(
            config, list(chunks), config_overrides={ParamKey(with_name_predicate=stays): _NO_DECAY}
        )
        self.set_decay()

    @property
    def has_weights(self) -> bool:
        """Whether this stage trains any: beside a frozen language model, only the first does."""
        weights = (weight for chunk in self._chunks for weight in chunk.parameters())
        return any(weight.requires_grad for weight in weights)

    def set_decay(self) -> None:
        """The library leaves this to its own learning-rate schedule."""
        for group in self.library.param_groups:
            group["weight_decay"] = self._settings.weight_decay * group["wd_mult"]

    def start_from(self, precise: Sequence[dict[str, Tensor]]) -> None:
        """Take fp32 weights, per chunk and name, for those that are copies of bf16 ones."""
        if len(precise) == 1:
            self.library.reload_model_params({"model": precise[0]})
        else:
            self.library.reload_model_params(
                {f"model{index}": weights for index, weights in enumerate(precise)}
            )

    @torch.no_grad()
    def clip_gradients(self, max_norm: float, device: torch.device) -> Tensor:
        """The 2-norm of the gradient of the whole model; gradients are scaled down to it."""
        self.library.prepare_grads()
        norm = float(self.library.get_grad_norm())
        if max_norm > 0:
            for part in self.library.chained_optimizers:
                if weights := part.get_parameters():
                    clip_grad_by_total_norm_fp32(weights, max_norm, norm)
        return torch.tensor(norm, device=device)

    def step(self, learning_rate: float) -> None:
        """One update with the gradients that ``clip_gradients`` has left."""
        for group in self.library.param_groups:
            group["lr"] = learning_rate
        self.library.step_with_ready_grads()
        self.library.zero_grad()

    def forget_gradients(self) -> None:
        """Before the first backward pass of a step."""
        for chunk in self._chunks:
            chunk.zero_grad_buffer()  # type: ignore[operator]

    def forget_states(self) -> None:
        """Back to the moments and steps of a new optimizer."""
        for part in self.library.chained_optimizers:
            if part.optimizer is None:
                continue
            part.optimizer.state.clear()
            for group in part.optimizer.param_groups:
                group.pop("step", None)


_NO_DECAY: Any = {"wd_mult": 0.0}
FULLY_RESHARDABLE = "fully_reshardable"
"""Of a checkpoint: one tensor per weight, whole, the only format that any other layout can read."""


_VECTORS = ("word_embeddings", "position_embeddings", "class_token")
"""Weights that are matrices by shape only: each row is a vector of its own."""


def _stays(weight: Tensor, name: str, tied: bool) -> bool:
    """Whether a weight does not decay: vectors, embeddings, an output layer that is one."""
    if weight.ndim < 2 or any(vectors in name for vectors in _VECTORS):
        return True
    return tied and "output_layer" in name


def make_states(optimizer: ChainedOptimizer) -> None:
    """Give every weight its moments and a step of its own.

    The library makes moments with the first step, and can neither save nor load before; when it
    loads, it gives all weights one tensor as their step, which each of them then counts up.
    """
    for part in optimizer.chained_optimizers:
        inner = part.optimizer
        if inner is None or not isinstance(inner, torch.optim.AdamW):
            continue  # fused optimizers count steps per group
        for group in inner.param_groups:
            for weight in group["params"]:
                state = inner.state[weight]
                state["step"] = state["step"].clone() if "step" in state else torch.tensor(0.0)
                for moment in ("exp_avg", "exp_avg_sq"):
                    if moment not in state:
                        state[moment] = torch.zeros_like(weight)


def load_states(optimizer: ChainedOptimizer, saved: Any) -> None:
    """Let the library load moments and fp32 weights, and repair what it does to steps."""
    for part in optimizer.chained_optimizers:
        if isinstance(part.optimizer, torch.optim.AdamW):
            part._set_main_param_and_optimizer_states = partial(_set_all_but_step, part)
    optimizer.load_state_dict(_for_these_optimizers(optimizer, saved))
    make_states(optimizer)


def _for_these_optimizers(optimizer: ChainedOptimizer, saved: Any) -> Any:
    """Saved states in the form that is loaded here.

    Experts that ranks share have an optimizer of their own, so the number of optimizers changes
    with the expert parallel size, and with it where the library looks for their settings. Tensors
    are named by weight; of the rest, only the count of steps is not the recipe's.
    """
    parts = optimizer.chained_optimizers
    tensors = (
        [saved] if len(parts) == 1 else [saved.get(number, {}) for number in range(len(parts))]
    )
    if all("optimizer" in found for found in tensors):
        return saved
    writers = [saved, *(found for key, found in saved.items() if isinstance(key, int))]
    settings = [found["optimizer"] for found in writers if "optimizer" in found]
    step = max(group["step"] for found in settings for group in found["param_groups"])
    fitted = {}
    for number, (part, found) in enumerate(zip(parts, tensors, strict=True)):
        own = part.state_dict()
        for group in own["optimizer"]["param_groups"]:
            group["step"] = step
        fitted[number] = {
            **own,
            "param_state": found["param_state"],
            "param_state_sharding_type": FULLY_RESHARDABLE,
        }
    return fitted[0] if len(parts) == 1 else fitted


def _set_all_but_step(part: Any, weight: Tensor, tensors: dict[str, Tensor]) -> None:
    """The library leaves the step out of what it saves per weight, and then asks for it."""
    group, place = part.model_param_group_index_map[weight]
    state = part.optimizer.state[part.optimizer.param_groups[group]["params"][place]]
    known = {"step": state["step"]} if "step" in state else {}
    type(part)._set_main_param_and_optimizer_states(part, weight, {**known, **tensors})
