from __future__ import annotations

import pytest
import torch

from evenkeel.training.failures import explained


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "train_micro_batch",
        ),
        (RuntimeError("std::bad_alloc"), "out of memory: std::bad_alloc"),
        (MemoryError(), "out of memory: the system refused"),
        (RuntimeError("[gloo/pair.cc:560] Connection closed by peer [::1]:9"), "another rank is"),
    ],
)
def test_what_a_user_can_act_on(error: RuntimeError | MemoryError, part: str) -> None:
    assert part in str(explained(error))


def test_a_bug_keeps_its_traceback() -> None:
    assert explained(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
