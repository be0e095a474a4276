"""Low-rank updates (Hu et al. 2021, arXiv:2106.09685): of a linear layer W, only B A is trained.

    y = x W' + (alpha / rank) x A' B'        A: (rank, in), B: (out, rank)

A starts random and B at zero, so that training starts from the model as it is. All other weights
are frozen; checkpoints hold the updates alone.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor, nn

from evenkeel.errors import InputError, did_you_mean
from evenkeel.recipes.schema import Lora, Policy
from evenkeel.recipes.support import check_low_rank

UPDATES = (".lora_a", ".lora_b")


class LoraLinear(nn.Linear):
    """A linear layer with its update; the weight keeps its name."""

    def __init__(self, base: nn.Linear, settings: Lora) -> None:
        """Take over ``base``; both updates are zero until ``reset_update``."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.lora_a = nn.Parameter(base.weight.new_zeros(settings.rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, settings.rank))
        self.scale, self.dropout = settings.alpha / settings.rank, settings.dropout

    def reset_update(self, generator: torch.Generator) -> None:
        """A as linear layers start in torch (He et al. 2015, with a = sqrt 5), B zero."""
        bound = 1 / math.sqrt(self.in_features)
        with torch.no_grad():
            self.lora_a.uniform_(-bound, bound, generator=generator)
            self.lora_b.zero_()

    def forward(self, input: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        update = F.dropout(input, self.dropout, self.training) if self.dropout else input
        update = F.linear(F.linear(update, self.lora_a), self.lora_b)
        return F.linear(input, self.weight, self.bias) + self.scale * update


def attach(model: nn.Module, policy: Policy, seed: int) -> None:
    """Give the layers that the recipe names their updates, in place; freeze everything else.

    Args:
        model: whole and not yet sharded; it may be on the meta device.
        policy: without a ``lora`` section nothing happens.
        seed: of the updates; with the same seed and model, the same updates.

    Raises:
        InputError: a name of ``target_modules`` is none of the model's linear layers or shares
            its weight with the embedding, or the layout splits matrices.
    """
    if policy.lora is None:
        return
    check_low_rank(policy)
    linears = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    known = {name.rpartition(".")[2] for name in linears}
    for target in policy.lora.target_modules:
        if target not in known:
            raise InputError(
                f"policy.lora.target_modules has {target!r}{did_you_mean(target, known)}; the "
                f"model's linear layers are {', '.join(sorted(known))}"
            )
    shared = {
        id(weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
    }
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, base in linears.items():
        parent, _, last = name.rpartition(".")
        if last in policy.lora.target_modules:
            if id(base.weight) in shared:
                raise InputError(
                    f"policy.lora.target_modules has {last!r}, whose weight is the embedding's, "
                    "too: an update of one of them could not be merged",
                    fix="set policy.model_config.tie_word_embeddings=false, or leave it out",
                )
            layer = LoraLinear(base, policy.lora)
            if not layer.weight.is_meta:
                layer.reset_update(generator)
            setattr(model.get_submodule(parent), last, layer)


def merged_weight(model: nn.Module, name: str, weights: dict[str, Tensor]) -> Tensor:
    """The whole weight ``name`` with its update in it.

    Args:
        model: for the scale of the update.
        name: of the weight.
        weights: the weight and its updates, by name, whole.
    """
    parent, _, last = name.rpartition(".")
    if last != "weight" or f"{parent}.lora_a" not in weights:
        return weights[name]
    layer = cast(LoraLinear, model.get_submodule(parent))
    update = weights[f"{parent}.lora_b"].float() @ weights[f"{parent}.lora_a"].float()
    return weights[name] + (layer.scale * update).to(weights[name].dtype)
