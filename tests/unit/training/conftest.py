"""Groups of ranks that exist in name only, for layouts that need no communication."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def fake_mesh() -> Iterator[object]:
    """A (dp, tp) mesh of eight ranks, of which this process is the first."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    try:
        yield init_device_mesh("cpu", (8, 1), mesh_dim_names=("dp", "tp"))
    finally:
        dist.destroy_process_group()
