"""Checkpoints through megatron-core's ``dist_checkpointing``: readable in another layout."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint.state_dict_saver as dcp_saver
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.transformer import MegatronModule
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from evenkeel.training.backends.megatron.optimizer import (
    FULLY_RESHARDABLE,
    DistributedAdamW,
    load_states,
    make_states,
)

_METADATA = {
    "distrib_optim_sharding_type": FULLY_RESHARDABLE,
    "chained_optim_avoid_prefix": True,
}


class InThisProcess(SaveShardedStrategy):  # type: ignore[misc]
    """The library's format, written here and now.

    Its own strategy starts a manager process, which needs psutil and runs the user's main module
    again, and forks from a process that may hold a GPU. It synchronises a GPU in the end, too.
    """

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Objects that differ by rank go into the same files."""
        return True

    def save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> None:
        """Write this rank's part below ``checkpoint_dir``, synced to disk."""
        by_key, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, True)
        dcp_saver.save(
            mcore_to_pyt_state_dict(by_key, False),
            storage_writer=FileSystemWriter(checkpoint_dir),
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )


def save(
    folder: Path, chunks: Sequence[MegatronModule], optimizer: DistributedAdamW | None = None
) -> None:
    """Write weights and, if given, optimizer state into ``folder``; called by every rank."""
    folder.mkdir(parents=True, exist_ok=True)
    dist_checkpointing.save(
        _state(chunks, optimizer, is_loading=False),
        str(folder),
        sharded_strategy=InThisProcess(),
        content_metadata=_METADATA,
    )


def load(
    folder: Path, chunks: Sequence[MegatronModule], optimizer: DistributedAdamW | None = None
) -> None:
    """Read what ``save`` wrote, in whatever layout; called by every rank."""
    wanted = _state(chunks, optimizer, is_loading=True)
    with warnings.catch_warnings():  # the library calls torch by a name that will go
        warnings.simplefilter("ignore", FutureWarning)
        state = dist_checkpointing.load(wanted, str(folder))
    for name, chunk in _named(chunks):
        chunk.load_state_dict(state[name])
    if optimizer is not None and optimizer.has_weights:
        load_states(optimizer.library, state["optimizer"])
        optimizer.set_decay()


def _named(chunks: Sequence[MegatronModule]) -> list[tuple[str, MegatronModule]]:
    if len(chunks) == 1:
        return [("model", chunks[0])]
    return [(f"model{index}", chunk) for index, chunk in enumerate(chunks)]


def _state(
    chunks: Sequence[MegatronModule], optimizer: DistributedAdamW | None, *, is_loading: bool
) -> dict[str, Any]:
    metadata = {
        **_METADATA,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    # of the models themselves: a wrapper would put its own name before every key
    state: dict[str, Any] = {
        name: chunk.sharded_state_dict(metadata=metadata) for name, chunk in _named(chunks)
    }
    if optimizer is None or not optimizer.has_weights:
        return state
    make_states(optimizer.library)
    state["optimizer"] = optimizer.library.sharded_state_dict(
        state, is_loading=is_loading, metadata=metadata
    )
    return state
