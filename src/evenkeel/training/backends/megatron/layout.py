"""Which rank does what: megatron-core's process groups, and the checks before it makes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker
from torch import Tensor

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Parallel
from evenkeel.recipes.support import check_pieces
from evenkeel.training.backends.interface import DataParallelPlace
from evenkeel.training.backends.megatron.context_parallel import ContextShare
from evenkeel.training.distributed import TIMEOUT, World


@dataclass(frozen=True)
class Layout:
    """This rank's place in every kind of parallelism."""

    place: DataParallelPlace
    """Its share of the global batch; ranks of one context-parallel group have the same."""
    share: ContextShare
    num_stages: int
    is_first_stage: bool
    is_last_stage: bool
    chunks: tuple[int | None, ...]
    """Pieces of the stack that it holds: their virtual stage, None where there is one piece."""

    def num_passes(self, num_micro_batches: int) -> int:
        """Micro-batches that the schedule needs: interleaving takes groups of one per stage."""
        if len(self.chunks) == 1:
            return num_micro_batches
        return -(-num_micro_batches // self.num_stages) * self.num_stages

    def from_last_stage(
        self, reports: list[dict[str, Tensor]], device: torch.device
    ) -> list[dict[str, Tensor]]:
        """What the last stage of the pipeline, which alone has the model's output, reports."""
        if self.num_stages == 1:
            return reports
        box: list[list[dict[str, Tensor]] | None] = [None]
        if self.is_last_stage:
            box = [[{name: x.cpu() for name, x in report.items()} for report in reports]]
        dist.broadcast_object_list(
            box,
            src=parallel_state.get_pipeline_model_parallel_last_rank(),
            group=parallel_state.get_pipeline_model_parallel_group(),
        )
        assert box[0] is not None
        return [{name: x.to(device) for name, x in report.items()} for report in box[0]]


_joined: tuple[Parallel, dist.ProcessGroup] | None = None
"""What the library's groups were made for."""


def join_groups(parallel: Parallel, world: World) -> Layout:
    """Make the process groups, in place of those of an earlier training in this process.

    Raises:
        InputError: the sizes do not fit each other or the number of ranks.
    """
    check_sizes(parallel, world.ranks.world_size)
    global _joined
    world_group = dist.group.WORLD
    assert world_group is not None
    if _joined is None or _joined[1] is not world_group:
        _make_groups(parallel)
        _joined = (parallel, world_group)
    elif _joined[0] != parallel:
        raise InputError("two models of one training need the same policy.parallel")
    virtual = parallel.virtual_pipeline_parallel_size or 1
    context = parallel.context_parallel_size
    return Layout(
        place=DataParallelPlace(
            parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
        ),
        share=ContextShare(
            context,
            parallel_state.get_context_parallel_rank(),
            parallel_state.get_context_parallel_group() if context > 1 else None,
        ),
        num_stages=parallel.pipeline_parallel_size,
        is_first_stage=parallel_state.is_pipeline_first_stage(ignore_virtual=True),
        is_last_stage=parallel_state.is_pipeline_last_stage(ignore_virtual=True),
        chunks=tuple(range(virtual)) if virtual > 1 else (None,),
    )


def common_lengths(lengths: list[int], device: torch.device) -> list[int]:
    """The largest of each number on all ranks that share the experts of a layer."""
    largest = torch.tensor(lengths, device=device)
    group = parallel_state.get_expert_tensor_and_model_parallel_group()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    agreed: list[int] = largest.tolist()
    return agreed


def _make_groups(parallel: Parallel) -> None:
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    virtual = parallel.virtual_pipeline_parallel_size or 1
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_parallel_size,
        virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
        context_parallel_size=parallel.context_parallel_size,
        expert_model_parallel_size=parallel.expert_parallel_size,
        expert_tensor_parallel_size=parallel.expert_tensor_parallel_size,
        distributed_timeout_minutes=int(TIMEOUT.total_seconds() // 60),
    )
    # without dropout nothing is drawn: this tracker forks nothing, and asks for no GPU
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)


def check_sizes(parallel: Parallel, num_ranks: int) -> None:
    """Raise an error where the sizes cannot divide the ranks.

    Raises:
        InputError: with the sizes and the number of ranks.
    """
    tp, pp = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    cp, ep = parallel.context_parallel_size, parallel.expert_parallel_size
    etp = parallel.expert_tensor_parallel_size or tp
    if min(tp, pp, cp, ep, etp) < 1 or num_ranks % (tp * pp * cp):
        raise InputError(
            f"policy.parallel asks for tensor {tp} x pipeline {pp} x context {cp} = {tp * pp * cp} "
            f"ranks for one copy of the model, and {num_ranks} rank(s) run",
            fix="start a multiple of that many ranks (cluster.gpus_per_node), or change the sizes",
        )
    if num_ranks % (ep * etp * pp):
        raise InputError(
            f"policy.parallel asks for experts over expert {ep} x expert tensor {etp} x pipeline "
            f"{pp} = {ep * etp * pp} ranks, which does not divide the {num_ranks} rank(s) that run",
            fix="set policy.parallel.expert_tensor_parallel_size=1, or change "
            "policy.parallel.expert_parallel_size",
        )
    check_pieces(parallel)
