"""Micro-batches on their way to the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evenkeel.training.data.batches import MicroBatch


def moved(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """The same on the device."""
    if device.type == "cpu":
        return batch
    tensors: dict[str, Any] = {
        name: value.pin_memory().to(device, non_blocking=True)
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }
    # what came from an earlier pass of the model is on the device already
    extras = {name: value.to(device, non_blocking=True) for name, value in batch.extras.items()}
    images = {
        name: value.pin_memory().to(device, non_blocking=True)
        for name, value in batch.images.items()
    }
    return replace(batch, **tensors, extras=extras, images=images)
