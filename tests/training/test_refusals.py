"""``evenkeel recipe fit`` refuses the layouts that the trainers refuse, in the same words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist
from model_families import FAMILIES, ONLY_TORCH, recipe_of
from torch.testing._internal.distributed.fake_pg import FakeStore

from evenkeel.errors import InputError
from evenkeel.recipes.memory_fit.architecture import parse
from evenkeel.recipes.memory_fit.fit import Models
from evenkeel.recipes.memory_fit.refusals import check_trainable
from evenkeel.recipes.schema import Backend, Cluster, Device, Lora, Parallel, Recipe
from evenkeel.recipes.support import ON_TORCH, check_parallel
from evenkeel.training import models
from evenkeel.training.backends import fsdp2, lora
from evenkeel.training.distributed import Ranks, World

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

RANKS = 24
ON_CPU = Cluster(device=Device.CPU, num_nodes=1, gpus_per_node=RANKS)
LAYOUTS = [
    Parallel(
        tensor_parallel_size=tensor,
        context_parallel_size=context,
        expert_parallel_size=experts,
        expert_tensor_parallel_size=within,
        sequence_parallel=shares,
    )
    for tensor, context, experts, within, shares in product(
        (1, 2, 3, 4), (1, 2), (1, 2, 3, 4), (None, 1), (False, True)
    )
]


def refused(check: Callable[[], object]) -> str | None:
    try:
        check()
    except InputError as error:
        return error.message
    return None


def by_fit(recipe: Recipe) -> str | None:
    shapes = Models(parse({"num_experts_per_tok": 2, **recipe.policy.model_config}), None)
    return refused(lambda: check_trainable(recipe, shapes))


def on_torch(recipe: Recipe) -> None:
    policy = recipe.policy
    check_parallel(policy, ON_TORCH)
    model = models.build_on_meta(models.described_config(policy.model_config))
    lora.attach(model, policy, recipe.seed)
    dist.init_process_group("meta:fake,cpu:fake", store=FakeStore(), rank=0, world_size=RANKS)
    try:
        world = World(Ranks(0, RANKS, 0, RANKS), torch.device("cpu"))
        fsdp2.shard(model, world.mesh(policy.parallel), policy)
    finally:
        dist.destroy_process_group()


def on_megatron(recipe: Recipe) -> None:
    from evenkeel.training.backends.megatron.architecture import architecture
    from evenkeel.training.backends.megatron.layout import check_sizes

    described = models.described_config(recipe.policy.model_config)
    architecture(described, recipe.policy, torch.device("cpu"))
    check_sizes(recipe.policy.parallel, RANKS)


@pytest.mark.parametrize(
    ("backend", "family"),
    [
        *((Backend.FSDP2, family) for family in {**FAMILIES, **ONLY_TORCH}),
        *((Backend.MEGATRON, family) for family in {**FAMILIES, **ONLY_TORCH}),
    ],
)
def test_layouts_are_refused_in_the_words_of_the_trainer(backend: Backend, family: str) -> None:
    model: dict[str, Any] = {**FAMILIES, **ONLY_TORCH}[family]
    trains = on_torch if backend is Backend.FSDP2 else on_megatron
    for parallel in LAYOUTS:
        recipe = replace(recipe_of(model, backend, parallel=parallel), cluster=ON_CPU)
        found = by_fit(recipe)
        if found is not None and "policy.parallel asks for" in found:
            continue  # the ranks do not divide, which is found first here
        assert refused(lambda: trains(recipe)) == found, parallel  # noqa: B023 - called at once


@pytest.mark.parametrize("option", [{"torch_compile": True}, {"lora": Lora(rank=2)}])
def test_options_of_torch_are_refused_in_its_words(option: dict[str, Any]) -> None:
    split = Parallel(tensor_parallel_size=2)
    recipe = recipe_of(FAMILIES["llama"], Backend.FSDP2, parallel=split, **option)
    recipe = replace(recipe, cluster=ON_CPU)
    found = by_fit(recipe)
    assert found is not None
    assert refused(lambda: on_torch(recipe)) == found
