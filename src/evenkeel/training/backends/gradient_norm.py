"""The 2-norm of a gradient whose parts lie sharded or replicated over a mesh.

``torch.nn.utils.clip_grad_norm_`` cannot mix plain tensors with DTensors, nor DTensors of
different meshes, and both occur once tensor and data parallelism meet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

EPSILON = 1e-6
"""Keeps the scale finite for a zero gradient; the value of ``clip_grad_norm_``."""


def global_norm(gradients: Sequence[Tensor], mesh: DeviceMesh) -> Tensor:
    """Square root of the sum of squares over the whole model; the same scalar on every rank.

    A part that is sharded over some dimensions of the mesh is summed over exactly these; a
    replicated one counts once. No gradient may be a pending sum (``Partial``).
    """
    by_dims: dict[frozenset[str], list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        by_dims[sharded_over(gradient)].append(_local(gradient))
    keys = sorted(by_dims, key=sorted)
    squares = torch.stack([_sum_of_squares(by_dims[key]) for key in keys])
    for dim in mesh.mesh_dim_names or ():
        mine = torch.tensor([dim in key for key in keys], device=squares.device)
        if mesh[dim].size() > 1 and any(dim in key for key in keys):
            summed = torch.where(mine, squares, 0.0)
            dist.all_reduce(summed, group=mesh[dim].get_group())
            squares = torch.where(mine, summed, squares)
    return squares.sum().sqrt()


def clip_to_norm(gradients: Sequence[Tensor], norm: Tensor, max_norm: float) -> None:
    """Scale all gradients by ``max_norm / norm`` where the norm is larger, in place."""
    scale = torch.clamp(max_norm / (norm + EPSILON), max=1.0)
    torch._foreach_mul_([_local(gradient) for gradient in gradients], scale)


def _sum_of_squares(tensors: list[Tensor]) -> Tensor:
    norms = torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float32))
    return norms.square().sum()


def _local(gradient: Tensor) -> Tensor:
    if not isinstance(gradient, DTensor):
        return gradient
    local: Tensor = gradient.to_local()
    return local


def sharded_over(gradient: Tensor) -> frozenset[str]:
    """The mesh dimensions whose ranks hold different parts of it.

    Where tensor and data parallelism split the same dimension of a weight, the placement is a
    strided shard, which newer versions of torch no longer derive from ``Shard``.

    Raises:
        RuntimeError: it is a pending sum over a dimension.
    """
    if not isinstance(gradient, DTensor):
        return frozenset()
    names = gradient.device_mesh.mesh_dim_names or ()
    for name, placement in zip(names, gradient.placements, strict=True):
        if placement.is_partial():
            raise RuntimeError(f"a gradient is still a pending sum over {name}")
    return frozenset(
        name
        for name, placement in zip(names, gradient.placements, strict=True)
        if not placement.is_replicate()
    )
