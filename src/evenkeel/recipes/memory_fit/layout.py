"""How a recipe's model lies over ranks, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from evenkeel.errors import InputError
from evenkeel.recipes.pipeline_stages import layers_of_stages
from evenkeel.recipes.schema import Backend, Recipe


@dataclass(frozen=True)
class Layout:
    """Sizes of every kind of parallelism."""

    backend: Backend
    world_size: int
    """Ranks that train."""
    tp: int
    pp: int
    cp: int
    ep: int
    etp: int
    """Tensor-parallel size within an expert; 1 on fsdp2, whose tensor-parallel ranks share the
    experts."""
    vpp: int
    """Pieces of the stack that each pipeline stage holds."""
    sequence_parallel: bool
    first_stage_layers: int | None = None
    last_stage_layers: int | None = None

    @property
    def dp(self) -> int:
        """Ranks that work on different samples."""
        return self.world_size // (self.tp * self.pp * self.cp)

    @property
    def sequence_split(self) -> int:
        """Ranks that share the tokens of norms and residuals."""
        return self.tp if self.sequence_parallel else 1

    @property
    def optimizer_split(self) -> int:
        """Ranks that share a weight's optimizer states."""
        return self.dp * self.cp

    @property
    def expert_optimizer_split(self) -> int:
        """Ranks that share the optimizer states of an expert's weight."""
        if self.ep == 1:
            return self.optimizer_split
        return self.world_size // (self.pp * self.ep * self.etp)

    def stage_layers(self, num_layers: int) -> list[range]:
        """The layers of each pipeline stage.

        With ``vpp`` pieces a stage's layers are not neighbours; how many it has is what counts.

        Raises:
            InputError: the layers do not divide.
        """
        return layers_of_stages(
            num_layers, self.pp, self.first_stage_layers, self.last_stage_layers, self.vpp
        )

    def in_flight(self, stage: int, num_micro_batches: int) -> float:
        """Micro-batches, in whole stages' worth, whose activations a stage holds at once.

        One forward, one backward: a stage runs as many forward passes ahead as stages follow it
        (Narayanan et al. 2021, arXiv:2104.04473, section 2.2.1). Interleaved, each of its pieces
        counts by itself (section 2.2.2), and the warm-up is that of megatron-core's schedule.
        """
        if self.vpp == 1:
            return min(self.pp - stage, num_micro_batches)
        ahead = 2 * (self.pp - stage - 1) + (self.vpp - 1) * self.pp + 1
        return min(ahead, num_micro_batches * self.vpp) / self.vpp


def layout_of(recipe: Recipe) -> Layout:
    """The layout of the ranks that train.

    Raises:
        InputError: the sizes do not divide the ranks.
    """
    parallel, cluster = recipe.policy.parallel, recipe.cluster
    ranks = cluster.num_nodes * cluster.gpus_per_node
    generation = recipe.policy.generation
    if generation is not None and not generation.colocated.enabled:
        own = generation.colocated.resources
        ranks -= (own.num_nodes or 0) * (own.gpus_per_node or cluster.gpus_per_node)
    tp, pp = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    cp, ep = parallel.context_parallel_size, parallel.expert_parallel_size
    on_megatron = recipe.policy.backend is Backend.MEGATRON
    etp = parallel.expert_tensor_parallel_size or (tp if on_megatron else 1)
    sizes = {"tensor x pipeline x context": tp * pp * cp}
    if ep > 1:
        sizes["expert x expert tensor x pipeline"] = ep * etp * pp
    for what, size in sizes.items():
        if ranks < 1 or ranks % size:
            raise InputError(
                f"policy.parallel asks for {what} = {size} ranks, which does not divide the "
                f"{ranks} that train",
                fix="change the sizes, cluster.num_nodes or cluster.gpus_per_node",
            )
    return Layout(
        backend=recipe.policy.backend,
        world_size=ranks,
        tp=tp,
        pp=pp,
        cp=cp,
        ep=ep,
        etp=etp,
        vpp=parallel.virtual_pipeline_parallel_size or 1,
        sequence_parallel=parallel.sequence_parallel and tp > 1,
        first_stage_layers=parallel.num_layers_in_first_pipeline_stage,
        last_stage_layers=parallel.num_layers_in_last_pipeline_stage,
    )
