"""Changes of code or layout that alter rounding and nothing else: who flags one cries wolf."""

from __future__ import annotations

from typing import Any

from mutants.registry import Patch, harmless


@harmless("two-threads", changes="operations are shared out over two threads")
def _two_threads(_: Patch) -> None:
    import torch

    torch.set_num_threads(2)


@harmless("linear-in-two-sums", changes="inner products are added in another order", unless=("tp",))
def _linear_in_two_sums(_: Patch) -> None:
    from torch import nn

    original = nn.functional.linear

    def forward(self: Any, x: Any) -> Any:
        half = self.in_features // 2
        first = original(x[..., :half], self.weight[:, :half], self.bias)
        return first + original(x[..., half:], self.weight[:, half:])

    nn.Linear.forward = forward  # type: ignore[method-assign]


@harmless("fused-optimizer", changes="torch's fused kernel of AdamW", unless=("tp",))
def _fused_optimizer(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def adamw(model: Any, settings: Any) -> Any:
            optimizer = original(model, settings)
            for group in optimizer.param_groups:
                group["fused"] = True
            return optimizer

        return adamw

    patch("backends.optimizer:adamw", make)


# with dropout, another kernel draws other masks
@harmless("unfused-attention", changes="attention as two matrix products", unless=("dropout",))
def _unfused_attention(_: Patch) -> None:
    import torch

    torch.backends.cuda.enable_flash_sdp(False)  # means the kernel for CPUs, too
    torch.backends.cuda.enable_mem_efficient_sdp(False)


harmless(
    "micro-batches-of-8",
    changes="a step in more, smaller micro-batches",
    unless=("dropout",),
    overrides=("policy.train_micro_batch_size=8",),
)
harmless(
    "two-ranks",
    changes="the batch and the weights are shared out over two processes",
    unless=("dropout", "dp", "tp"),
    overrides=("policy.train_micro_batch_size=8", "cluster.gpus_per_node=2"),
)
harmless(
    "activations-recomputed",
    changes="activations are computed again in the backward pass",
    overrides=("policy.activation_checkpointing=true",),
)
harmless(
    "logits-in-chunks",
    changes="the output layer over 16 positions at a time",
    overrides=("policy.logits_chunk_size=16",),
)
