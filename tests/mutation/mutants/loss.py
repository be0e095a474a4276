"""Bugs between the model's output and the gradient of a global batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mutants.registry import Patch, mutant


@mutant(
    "loss-mean-per-micro-batch",
    breaks="each micro-batch is averaged over its own tokens, then the averages are averaged",
    seen="Hugging Face transformers, gradient accumulation of unequal micro-batches, October 2024",
    needs=("sft", "micro_batches"),
)
def _mean_per_micro_batch(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def forward_backward(self: Any, micro_batches: Any, loss: Any) -> Any:
            parts = len(micro_batches) * self.place.size

            def averaged(output: Any, batch: Any) -> Any:
                share, sums = loss(output, batch)
                right = loss.keywords["num_tokens"]
                factor = right / max(batch.num_trained_tokens, 1) / parts
                return share * factor, {name: value * factor for name, value in sums.items()}

            return original(self, micro_batches, averaged)

        return forward_backward

    patch("backends.fsdp2:Fsdp2Backend.forward_backward", make)


@mutant(
    "last-micro-batch-dropped",
    breaks="the last micro-batch of a step never gets a backward pass",
    seen="class: loops over accumulation steps that end one too early",
    needs=("micro_batches",),
)
def _last_micro_batch_dropped(patch: Patch) -> None:
    patch(
        "backends.fsdp2:Fsdp2Backend.forward_backward",
        lambda original: lambda self, batches, loss: original(self, batches[:-1], loss),
    )


@mutant(
    "gradient-of-last-micro-batch-only",
    breaks="gradients are cleared before every micro-batch instead of before every step",
    seen="class: zero_grad inside the accumulation loop, a standing question of PyTorch's forum",
    needs=("micro_batches",),
)
def _last_gradient_only(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def forward_backward(self: Any, micro_batches: Any, loss: Any) -> Any:
            def cleared(output: Any, batch: Any) -> Any:
                self.optimizer.zero_grad()
                return loss(output, batch)

            return original(self, micro_batches, cleared)

        return forward_backward

    patch("backends.fsdp2:Fsdp2Backend.forward_backward", make)


@mutant(
    "gradient-never-cleared",
    breaks="the gradient of a step is added to those of all steps before it",
    seen="class: a forgotten zero_grad",
)
def _never_cleared(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def reset_optimizer(self: Any) -> None:
            original(self)
            self.optimizer.zero_grad = lambda: None

        return reset_optimizer

    patch("backends.fsdp2:Fsdp2Backend.reset_optimizer", make)


@mutant(
    "logits-in-bf16",
    breaks="the cross-entropy is taken of logits rounded to bf16",
    seen="class: a dropped .float() before the loss; several fused cross-entropy kernels",
    needs=("pretrain",),
)
def _logits_in_bf16(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def sum_of_token_losses(self: Any, labels: Any) -> Any:
            return original(replace(self, logits=self.logits.bfloat16()), labels)

        return sum_of_token_losses

    patch("backends.interface:ModelOutput.sum_of_token_losses", make)


@mutant(
    "label-smoothing-by-default",
    breaks="a tenth of each label's weight goes to all tokens alike",
    seen="class: a default of the loss function that the recipe does not name",
    needs=("sft",),
)
def _label_smoothing(patch: Patch) -> None:
    def make(original: Any) -> Any:
        from torch.nn.functional import cross_entropy

        def sum_of_token_losses(self: Any, labels: Any) -> Any:
            import torch

            if not torch.is_grad_enabled():
                return original(self, labels)
            return cross_entropy(
                self.logits.float().flatten(0, 1),
                labels.flatten(),
                ignore_index=-100,
                reduction="sum",
                label_smoothing=0.1,
            )

        return sum_of_token_losses

    patch("backends.interface:ModelOutput.sum_of_token_losses", make)
