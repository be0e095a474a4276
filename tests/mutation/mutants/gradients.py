"""Bugs in how gradients are communicated, measured and clipped."""

from __future__ import annotations

from typing import Any

from mutants.registry import Patch, mutant


def _scale_loss(patch: Patch, power: int) -> None:
    """Multiply the gradient, not the reported loss, by a power of the data-parallel size."""

    def make(original: Any) -> Any:
        def forward_backward(self: Any, micro_batches: Any, loss: Any) -> Any:
            factor = float(self.place.size) ** power

            def scaled(output: Any, batch: Any) -> Any:
                share, sums = loss(output, batch)
                return share * factor, sums

            return original(self, micro_batches, scaled)

        return forward_backward

    patch("backends.fsdp2:Fsdp2Backend.forward_backward", make)


@mutant(
    "gradient-reduced-twice",
    breaks="the gradient is summed over data-parallel ranks once too often",
    seen="class: a wrapper that reduces and a hook that does so again",
    needs=("dp",),
)
def _reduced_twice(patch: Patch) -> None:
    _scale_loss(patch, 1)


@mutant(
    "gradient-divided-by-ranks",
    breaks="a loss normalised over the global batch is averaged over ranks once more",
    seen="class: per-token normalisation under FSDP's or DDP's mean, as with transformers' "
    "num_items_in_batch",
    needs=("dp",),
)
def _divided_by_ranks(patch: Patch) -> None:
    _scale_loss(patch, -1)


@mutant(
    "gradient-not-reduced",
    breaks="each rank's share of the weights sees only that rank's gradient",
    seen="class: no_sync left on, parameters used outside of the wrapper's forward",
    needs=("dp",),
)
def _not_reduced(patch: Patch) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultReduceScatter

    class OwnPart(DefaultReduceScatter):
        def __call__(
            self, output_tensor: Any, input_tensor: Any, group: Any, op: Any, async_op: bool = False
        ) -> None:
            size, rank = dist.get_world_size(group), dist.get_rank(group)
            with torch.no_grad():
                own = input_tensor.view(size, -1)[rank]
                output_tensor.copy_(own.view_as(output_tensor))

    def make(original: Any) -> Any:
        def shard(model: Any, mesh: Any, policy: Any) -> None:
            original(model, mesh, policy)
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.set_custom_reduce_scatter(OwnPart())

        return shard

    patch("backends.fsdp2:shard", make)


def _local_norm(gradients: Any, mesh: Any) -> Any:
    import torch

    parts = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
    return torch.stack([part.float().square().sum() for part in parts]).sum().sqrt()


@mutant(
    "norm-of-own-shard",
    breaks="a rank clips by the norm of its own shard of the gradient (data parallel)",
    seen="class: clip_grad_norm_ on sharded parameters without communication, a warning in "
    "PyTorch's documentation of FSDP",
    needs=("dp",),
)
def _norm_of_own_shard(patch: Patch) -> None:
    patch("backends.gradient_norm:global_norm", lambda _: _local_norm)


@mutant(
    "norm-of-own-tensor-shard",
    breaks="a rank clips by the norm of its own shard of the gradient (tensor parallel)",
    seen="class: as norm-of-own-shard, over the other dimension of the mesh",
    needs=("tp",),
)
def _norm_of_own_tensor_shard(patch: Patch) -> None:
    patch("backends.gradient_norm:global_norm", lambda _: _local_norm)


@mutant(
    "clipping-off",
    breaks="gradients are measured and never clipped",
    seen="class: a maximal norm that does not reach the optimizer",
    needs=("sft",),
)
def _clipping_off(patch: Patch) -> None:
    patch(
        "backends.fsdp2:Fsdp2Backend.clip_gradients",
        lambda original: lambda self, max_norm: original(self, 0.0),
    )


@mutant(
    "clipping-before-unscaling",
    breaks="the norm is taken of gradients still multiplied by a loss scale of 1024",
    seen="class: a missing unscale_ before clip_grad_norm_, which PyTorch's AMP examples warn of",
    needs=("sft",),
)
def _clipping_before_unscaling(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def clip_gradients(self: Any, max_norm: float) -> Any:
            norm = original(self, max_norm)
            for weight in self.model.parameters():
                if weight.grad is not None:
                    clipped = (1024 * norm).clamp(min=max_norm)
                    weight.grad *= float(max_norm / clipped * norm.clamp(min=max_norm) / max_norm)
            return norm

        return clip_gradients

    patch("backends.fsdp2:Fsdp2Backend.clip_gradients", make)


@mutant(
    "clipping-ten-times-tighter",
    breaks="gradients are clipped to a tenth of the recipe's norm",
    seen="class: a default that wins over the recipe",
    needs=("pretrain",),
)
def _clipping_tighter(patch: Patch) -> None:
    patch(
        "backends.fsdp2:Fsdp2Backend.clip_gradients",
        lambda original: lambda self, max_norm: original(self, max_norm / 10),
    )
