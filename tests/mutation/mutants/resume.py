"""Bugs that show only when a run continues from a checkpoint."""

from __future__ import annotations

from typing import Any

from mutants.registry import Patch, mutant


@mutant(
    "optimizer-state-lost",
    breaks="Adam's moments and step count begin anew when a run continues",
    seen="class: checkpoints of weights alone, or of the wrong optimizer",
    needs=("resume",),
)
def _optimizer_state_lost(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def load(self: Any, folder: Any) -> None:
            original(self, folder)
            self.reset_optimizer()

        return load

    patch("backends.fsdp2:Fsdp2Backend.load", make)


def _with_start(patch: Patch, started: list[int]) -> None:
    """Note in ``started`` at which step this start of the trainer began."""

    def make(original: Any) -> Any:
        def resume(self: Any) -> int:
            step: int = original(self)
            started[:] = [step]
            return step

        return resume

    patch("loop:TrainingLoop.resume", make)


@mutant(
    "schedule-restarted",
    breaks="the learning rate starts from its first step when a run continues",
    seen="class: a scheduler whose state is not in the checkpoint",
    needs=("resume",),
)
def _schedule_restarted(patch: Patch) -> None:
    started: list[int] = [0]
    _with_start(patch, started)

    def make(original: Any) -> Any:
        def learning_rate(step: int, peak: float, scheduler: Any, horizon: int) -> float:
            rate: float = original(step - started[0], peak, scheduler, horizon)
            return rate

        return learning_rate

    patch("schedules:learning_rate", make)


@mutant(
    "data-repeated",
    breaks="a run that continues trains the samples of its first start again",
    seen="class: a data loader that does not know the step it resumes at",
    needs=("sft", "resume"),
)
def _data_repeated(patch: Patch) -> None:
    started: list[int] = [0]
    _with_start(patch, started)
    patch(
        "data.batches:BatchSource.global_batch",
        lambda original: lambda self, step: original(self, max(step - started[0], 1)),
    )


@mutant(
    "norms-not-restored",
    breaks="weights of the norms are those of the start when a run continues",
    seen="class: a renamed module and strict=False",
    needs=("resume",),
)
def _norms_not_restored(patch: Patch) -> None:
    import torch

    def make(original: Any) -> Any:
        def load(self: Any, folder: Any) -> None:
            original(self, folder)
            with torch.no_grad():
                for name, weight in self.model.named_parameters():
                    if "norm" in name:
                        weight.fill_(1.0)

        return load

    patch("backends.fsdp2:Fsdp2Backend.load", make)


@mutant(
    "restored-in-bf16",
    breaks="weights lose all but 8 bits of their mantissa in the checkpoint",
    seen="class: checkpoints written in the precision of the forward pass",
    needs=("resume",),
)
def _restored_in_bf16(patch: Patch) -> None:
    import torch

    def make(original: Any) -> Any:
        def load(self: Any, folder: Any) -> None:
            original(self, folder)
            with torch.no_grad():
                for weight in self.model.parameters():
                    weight.copy_(weight.bfloat16())

        return load

    patch("backends.fsdp2:Fsdp2Backend.load", make)
