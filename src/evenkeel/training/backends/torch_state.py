"""Weights and optimizer states of a torch model: from one rank to all, to disk and back.

States are named by weight, not by rank, so torch.distributed.checkpoint can read a checkpoint into
another layout than it was written from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint.state_dict_loader as dcp_loader
import torch.distributed.checkpoint.state_dict_saver as dcp_saver
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor


def spread_weights(whole: nn.Module | None, sharded: nn.Module, device: torch.device) -> None:
    """Copy rank 0's ``whole`` model into every rank's ``sharded`` one.

    Buffers are not part of a state dict when they can be computed; after ``to_empty`` they hold
    anything, so they are sent, too.
    """
    weights = {} if whole is None else whole.state_dict()
    set_model_state_dict(
        sharded,
        weights,
        options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
    )
    values = {} if whole is None else dict(whole.named_buffers())
    with torch.no_grad():
        for name, buffer in sharded.named_buffers():
            # in a module whose weight is split, such as a scaled embedding, it is a DTensor, too
            here = buffer.to_local() if isinstance(buffer, DTensor) else buffer
            if name in values:
                here.copy_(values[name].to(device))
            dist.broadcast(here, src=0)


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    trained_only: bool = False,
) -> None:
    """Write both below ``folder``, synced to disk; called by every rank.

    Args:
        folder: new.
        model: its weights.
        optimizer: its moments, where it has any.
        trained_only: leave frozen weights out.
    """
    dcp_saver.save(_state(model, optimizer, trained_only), checkpoint_id=folder)


def load(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    trained_only: bool = False,
) -> None:
    """Read what ``save`` wrote from ``folder``, in place; called by every rank."""
    state = _state(model, optimizer, trained_only)
    dcp_loader.load(state, checkpoint_id=folder)
    options = StateDictOptions(strict=not trained_only)
    if optimizer is None:
        set_model_state_dict(model, state["model"], options=options)
        return
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=options,
    )


def _state(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, trained_only: bool
) -> dict[str, Any]:
    options = StateDictOptions(ignore_frozen_params=trained_only)
    if optimizer is None:
        return {"model": get_model_state_dict(model, options=options)}
    weights, moments = get_state_dict(model, optimizer, options=options)
    return {"model": weights, "optimizer": moments}
