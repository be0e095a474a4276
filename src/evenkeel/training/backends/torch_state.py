"""Weights and optimizer states of a torch model: from one rank to all, to disk and back.

States are named by weight, not by rank, so torch.distributed.checkpoint can read a checkpoint into
another layout than it was written from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint.state_dict_loader as dcp_loader
import torch.distributed.checkpoint.state_dict_saver as dcp_saver
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor


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


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name; a tied one under each of its names."""
    return {**model.state_dict(), **dict(model.named_buffers())}


def spread_to_stages(
    whole: nn.Module | None,
    described: Mapping[str, Tensor],
    stage: nn.Module,
    device: torch.device,
) -> None:
    """Copy rank 0's ``whole`` model into every rank's part of its stage, one tensor at a time.

    Args:
        whole: None on all ranks but 0.
        described: ``tensors`` of the whole model, on the meta device.
        stage: some of its modules, sharded.
        device: of the stage.
    """
    values = {} if whole is None else tensors(whole)
    parts = tensors(stage)
    for name, meta in described.items():
        value = values[name].to(device) if values else torch.empty_like(meta, device=device)
        dist.broadcast(value, src=0)
        part = parts.get(name)
        if isinstance(part, DTensor):
            mine = distribute_tensor(value, part.device_mesh, part.placements, src_data_rank=None)
            part.to_local().copy_(mine.to_local())
        elif part is not None:
            part.copy_(value)


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    trained_only: bool = False,
    stages: dist.ProcessGroup | None = None,
) -> None:
    """Write both below ``folder``, synced to disk; called by every rank.

    Args:
        folder: new.
        model: its weights.
        optimizer: its moments, where it has any.
        trained_only: leave frozen weights out.
        stages: ranks that hold the stages of one model, where ``model`` is one of them.
    """
    state = _state(model, optimizer, trained_only)
    if stages is not None:
        _name_all_weights(state["optimizer"]["param_groups"], stages)
    dcp_saver.save(state, checkpoint_id=folder)


def _name_all_weights(groups: list[dict[str, Any]], stages: dist.ProcessGroup) -> None:
    """Let every stage's groups name the whole model's weights: one rank writes them for all."""
    mine = [group["params"] for group in groups]
    found: list[list[list[str]]] = [[]] * stages.size()
    dist.all_gather_object(found, mine, group=stages)
    for index, group in enumerate(groups):
        names = (name for stage in found for name in stage[index])
        group["params"] = list(dict.fromkeys(names))


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
