"""Weights of a transformers model into the parts of a megatron-core model on all ranks, and back.

One weight at a time goes over the network, so that no rank but the first holds the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from evenkeel.training.backends.megatron import mixture
from evenkeel.training.backends.megatron.llava import language_model
from evenkeel.training.backends.megatron.piece import Piece
from evenkeel.training.backends.megatron.weight_map import piece_name, pieces

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Named = dict[str, Tensor]


def spread(
    whole: Mapping[str, Tensor] | None, chunks: Sequence[nn.Module], config: PretrainedConfig
) -> list[Named]:
    """Copy rank 0's ``whole`` state dict into the chunks of every rank.

    Returns:
        Per chunk and parameter (by its name there): this rank's part in fp32, which is more
        precise than the parameter where that is bfloat16.

    Raises:
        RuntimeError: a weight of a chunk has no counterpart.
    """
    device = next(chunks[0].parameters()).device
    places = [_local_places(chunk, config) for chunk in chunks]
    precise: list[Named] = [{} for _ in chunks]
    missing = {name for place in places for name in place}
    for piece in pieces(config):
        tensor = _broadcast_merged(piece, whole, device)
        for place, parts in zip(places, precise, strict=True):
            if piece.name not in place:
                continue
            missing.discard(piece.name)
            name, weight = place[piece.name]
            part = shard(tensor, weight, piece)
            _note_split(weight, tensor)
            with torch.no_grad():
                weight.copy_(part)
            parts[name] = part.float()
    if missing:
        raise RuntimeError(f"no weight of transformers for {sorted(missing)[0]}")
    return precise


def gather(chunks: Sequence[nn.Module], config: PretrainedConfig) -> Iterator[tuple[str, Tensor]]:
    """The weights in transformers' names and layout, whole, on every rank; ranks must keep step.

    A layer's experts come as one tensor.
    """
    device = next(chunks[0].parameters()).device
    places = [_local_places(chunk, config) for chunk in chunks]
    stacks: dict[str, list[Tensor]] = {}
    total = mixture.num_experts(config) if mixture.has_experts(config) else 0
    for piece in pieces(config):
        if piece.is_copy:
            continue
        found = [place[piece.name][1] for place in places if piece.name in place]
        whole = _whole_everywhere(piece, found[0] if found else None, device)
        for name, tensor in zip(piece.sources, piece.split(whole), strict=True):
            if piece.expert is None:
                yield name, tensor
                continue
            stack = stacks.setdefault(name, [])
            stack.append(tensor)
            if len(stack) == total:
                yield name, torch.stack(stacks.pop(name))


def shard(whole: Tensor, weight: Tensor, piece: Piece) -> Tensor:
    """This rank's part of a whole weight, which is split along the dimension that differs."""
    dim = _split_dim(whole.shape, weight.shape)
    if dim is None:
        return whole
    group = _tensor_group(piece)
    halves = whole.chunk(2) if piece.is_gated else (whole,)
    return torch.cat([half.chunk(group.size(), dim)[group.rank()] for half in halves])


def _note_split(weight: Tensor, whole: Tensor) -> None:
    """Tell the library which weights are split; it notes that only where it draws them itself.

    It counts all others once per tensor-parallel group in the norm of the gradient.
    """
    dim = _split_dim(whole.shape, weight.shape)
    if dim is not None and not hasattr(weight, "tensor_model_parallel"):
        set_tensor_model_parallel_attributes(weight, is_parallel=True, dim=dim, stride=1)


def _split_dim(whole: Sequence[int], part: Sequence[int]) -> int | None:
    dims = [d for d, (a, b) in enumerate(zip(whole, part, strict=True)) if a != b]
    if len(dims) > 1:
        raise RuntimeError(f"a weight of shape {tuple(whole)} does not go into {tuple(part)}")
    return dims[0] if dims else None


def _tensor_group(piece: Piece) -> dist.ProcessGroup:
    group: dist.ProcessGroup = (
        parallel_state.get_tensor_model_parallel_group()
        if piece.expert is None
        else parallel_state.get_expert_tensor_parallel_group()
    )
    return group


def _local_places(chunk: nn.Module, config: PretrainedConfig) -> dict[str, tuple[str, Tensor]]:
    """Per piece that this chunk has: the name there and the parameter or buffer."""
    layers: Any = language_model(chunk).get_submodule("decoder.layers")
    first_layer = layers[0].layer_number - 1 if len(layers) else 0
    first_expert = 0
    if mixture.has_experts(config):
        ranks = parallel_state.get_expert_model_parallel_world_size()
        share = mixture.num_experts(config) // ranks
        first_expert = share * parallel_state.get_expert_model_parallel_rank()
    weights: Named = dict(chunk.named_parameters())
    weights |= {n: b for n, b in chunk.named_buffers() if n.endswith("expert_bias")}
    return {
        piece_name(name, first_layer, first_expert): (name, weight)
        for name, weight in weights.items()
    }


def _broadcast_merged(
    piece: Piece, whole: Mapping[str, Tensor] | None, device: torch.device
) -> Tensor:
    shape: list[object] = [None]
    tensor: Tensor | None = None
    if whole is not None:
        tensor = piece.merge([whole[name] for name in piece.sources]).to(device).contiguous()
        shape = [tuple(tensor.shape)]
    if dist.get_world_size() == 1:
        assert tensor is not None
        return tensor
    dist.broadcast_object_list(shape, src=0)
    if tensor is None:
        tensor = torch.empty(shape[0], device=device)  # type: ignore[call-overload]
    dist.broadcast(tensor, src=0)
    return tensor


def _whole_everywhere(piece: Piece, part: Tensor | None, device: torch.device) -> Tensor:
    """A weight of which some ranks have a part, put together and sent to all ranks."""
    whole = None if part is None else _unshard(part, piece)
    if dist.get_world_size() == 1:
        assert whole is not None
        return whole
    shapes: list[tuple[tuple[int, ...], torch.dtype] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(shapes, None if whole is None else (tuple(whole.shape), whole.dtype))
    owner, (shape, dtype) = next((rank, found) for rank, found in enumerate(shapes) if found)
    if whole is None:
        whole = torch.empty(shape, dtype=dtype, device=device)
    dist.broadcast(whole, src=owner)
    return whole


def _unshard(part: Tensor, piece: Piece) -> Tensor:
    """The inverse of ``shard``; the ranks of the tensor-parallel group call it together."""
    group = _tensor_group(piece)
    if group.size() == 1 or not getattr(part, "tensor_model_parallel", False):
        return part.detach().clone()
    dim: int = part.partition_dim  # type: ignore[attr-defined]
    parts = [torch.empty_like(part.data) for _ in range(group.size())]
    dist.all_gather(parts, part.detach().contiguous(), group=group)
    if not piece.is_gated:
        return torch.cat(parts, dim)
    gates, ups = zip(*(p.chunk(2) for p in parts), strict=True)
    return torch.cat([*gates, *ups], dim) if dim == 0 else torch.cat(parts, dim)
