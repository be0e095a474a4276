"""AdamW over the groups of weights that do and do not decay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Optimizer


def adamw(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); matrices decay, the rest does not.

    Embeddings are matrices by shape only: each row is a vector of its own, so they do not decay,
    nor does an output layer that is tied to them.

    Raises:
        InputError: another optimizer is asked for, or a setting is out of range.
    """
    check_settings(settings)
    embeddings = {
        id(weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
    }
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    decays = [w for w in trained if w.ndim >= 2 and id(w) not in embeddings]
    stays = [w for w in trained if w.ndim < 2 or id(w) in embeddings]
    return torch.optim.AdamW(
        [
            {"params": decays, "weight_decay": settings.weight_decay},
            {"params": stays, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
        fused=True if can_fuse(trained) and trained[0].is_cuda else None,
    )


def can_fuse(weights: Sequence[Tensor]) -> bool:
    """Whether one kernel may step all of them: they are plain tensors, or spread over one mesh.

    Without it torch steps the weights of FSDP2 one after the other.
    """
    return len({getattr(weight, "device_mesh", None) for weight in weights}) == 1


def check_settings(settings: Optimizer) -> None:
    """Raise an error for settings that no backend has.

    Raises:
        InputError: another optimizer is asked for, or a setting is out of range.
    """
    if settings.name != "adamw":
        raise InputError(
            f"policy.optimizer.name is {settings.name!r}", fix="adamw is the only one so far"
        )
    if len(settings.betas) != 2 or not all(0 <= beta < 1 for beta in settings.betas):
        raise InputError(f"policy.optimizer.betas is {settings.betas}, not two numbers in [0, 1)")
