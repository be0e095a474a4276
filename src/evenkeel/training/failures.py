"""Failures of torch that a person can act on, told as such; all others keep their traceback."""

from __future__ import annotations

import torch
import torch.distributed as dist

from evenkeel.errors import MachineError

_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "std::bad_alloc")
_ADVICE = " This is typically caused"
"""Where gloo begins to guess."""


def explained(error: RuntimeError | MemoryError) -> MachineError | None:
    """What happened in a user's words, or None for an error that is not of the machine.

    torch reports a lost peer over gloo as a plain ``RuntimeError``, so its text decides.
    """
    text = str(error)
    first_line = next(iter(text.splitlines()), "").partition(_ADVICE)[0]
    has_no_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if has_no_memory or any(sign in text for sign in _NO_MEMORY):
        return MachineError(
            f"out of memory: {first_line or 'the system refused to give any'}",
            fix="lower policy.train_micro_batch_size, set policy.activation_checkpointing=true, or "
            "raise policy.parallel.tensor_parallel_size; none of them changes the curve",
        )
    if isinstance(error, dist.DistBackendError) or any(sign in text for sign in _LOST_PEER):
        return MachineError(
            f"another rank is gone: {first_line}",
            fix="look for that rank's own message; the last checkpoint is whole, so call again",
        )
    return None
