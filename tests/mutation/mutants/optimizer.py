"""Bugs in the optimizer: its settings, its groups of weights, its precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mutants.registry import Patch, mutant


def _change_settings(patch: Patch, change: Callable[[Any], Any]) -> None:
    patch(
        "backends.optimizer:adamw",
        lambda original: lambda model, settings: original(model, change(settings)),
    )


def _after_step(patch: Patch, after: Callable[[Any], None]) -> None:
    def make(original: Any) -> Any:
        def step(self: Any, learning_rate: float) -> None:
            original(self, learning_rate)
            after(self)

        return step

    patch("backends.fsdp2:Fsdp2Backend.step", make)


@mutant(
    "decay-on-norms-and-embeddings",
    breaks="weight decay pulls on all weights",
    seen="class: one parameter group for everything; the default of torch.optim.AdamW",
    needs=("sft", "weight_decay"),
)
def _decay_on_all(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def adamw(model: Any, settings: Any) -> Any:
            optimizer = original(model, settings)
            for group in optimizer.param_groups:
                group["weight_decay"] = settings.weight_decay
            return optimizer

        return adamw

    patch("backends.optimizer:adamw", make)


@mutant(
    "decay-missing",
    breaks="no weight decays",
    seen="class: a setting that does not reach the optimizer",
    needs=("pretrain", "weight_decay"),
)
def _decay_missing(patch: Patch) -> None:
    _change_settings(patch, lambda settings: replace(settings, weight_decay=0.0))


@mutant(
    "decay-in-the-gradient",
    breaks="weight decay is added to the gradient before Adam scales it",
    seen="class: Adam with L2 instead of AdamW (Loshchilov & Hutter 2019 is about it)",
    needs=("pretrain", "weight_decay"),
)
def _decay_in_the_gradient(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def step(self: Any, learning_rate: float) -> None:
            for group in self.optimizer.param_groups:
                decay = group["weight_decay"]
                for weight in group["params"]:
                    if weight.grad is not None:
                        weight.grad += decay * weight.detach()
                group["kept"], group["weight_decay"] = decay, 0.0
            original(self, learning_rate)
            for group in self.optimizer.param_groups:
                group["weight_decay"] = group.pop("kept")

        return step

    patch("backends.fsdp2:Fsdp2Backend.step", make)


@mutant(
    "betas-of-the-library",
    breaks="Adam's second moment decays with 0.999 instead of the recipe's beta",
    seen="class: a library's default in place of the recipe's value",
    needs=("pretrain",),
)
def _betas(patch: Patch) -> None:
    _change_settings(patch, lambda settings: replace(settings, betas=[0.9, 0.999]))


@mutant(
    "momentum-off",
    breaks="Adam's first moment is not kept",
    seen="class: betas in the wrong order or read from the wrong key",
    needs=("sft",),
)
def _momentum_off(patch: Patch) -> None:
    _change_settings(patch, lambda settings: replace(settings, betas=[0.0, settings.betas[1]]))


@mutant(
    "epsilon-too-large",
    breaks="Adam's epsilon is 1e-3 instead of 1e-8",
    seen="class: an epsilon meant for another library's formula",
    needs=("sft",),
)
def _epsilon(patch: Patch) -> None:
    _change_settings(patch, lambda settings: replace(settings, eps=1e-3))


@mutant(
    "bf16-master-weights",
    breaks="weights are kept in bf16, so that small updates are lost",
    seen="class: model.to(bfloat16) before the optimizer is made, no fp32 copy",
    needs=("pretrain",),
)
def _bf16_master_weights(patch: Patch) -> None:
    import torch

    def rounded(backend: Any) -> None:
        with torch.no_grad():
            for weight in backend.model.parameters():
                weight.copy_(weight.bfloat16())

    _after_step(patch, rounded)


@mutant(
    "bf16-second-moment",
    breaks="Adam's second moment is rounded to bf16 after each step",
    seen="class: optimizer states in the precision of the weights",
    needs=("pretrain",),
)
def _bf16_second_moment(patch: Patch) -> None:
    def rounded(backend: Any) -> None:
        for state in backend.optimizer.state.values():
            state["exp_avg_sq"].copy_(state["exp_avg_sq"].bfloat16())

    _after_step(patch, rounded)


@mutant(
    "no-bias-correction",
    breaks="Adam's moments are not corrected for their start at zero",
    seen="class: BERT's original optimizer, examined by Zhang et al. 2021, arXiv:2006.05987",
    needs=("sft",),
)
def _no_bias_correction(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def step(self: Any, learning_rate: float) -> None:
            self.num_steps = getattr(self, "num_steps", 0) + 1
            first, second = self.optimizer.param_groups[0]["betas"]
            correction = (1 - first**self.num_steps) / math.sqrt(1 - second**self.num_steps)
            original(self, learning_rate * correction)

        return step

    patch("backends.fsdp2:Fsdp2Backend.step", make)


@mutant(
    "embeddings-not-in-the-optimizer",
    breaks="the token embedding is never updated",
    seen="class: parameters collected before a module was replaced",
    needs=("sft",),
)
def _embeddings_left_out(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def adamw(model: Any, settings: Any) -> Any:
            optimizer = original(model, settings)
            embedding = model.get_input_embeddings().weight
            for group in optimizer.param_groups:
                group["params"] = [w for w in group["params"] if w is not embedding]
            return optimizer

        return adamw

    patch("backends.optimizer:adamw", make)
