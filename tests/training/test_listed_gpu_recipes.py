"""Every recipe that a GPU listing names builds, without memory for its weights, as it will train.

One process stands for a rank of the recipe's whole world: torch's fake process group makes its
groups and answers its collectives, and weights lie on the meta device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import PretrainedConfig

from evenkeel.recipes import config, suite
from evenkeel.recipes.schema import Algorithm, Backend, Device, Policy, Recipe
from evenkeel.recipes.support import check_parallel, check_supported
from evenkeel.training import models, vision_model
from evenkeel.training.algorithms.distillation import teacher_policy
from evenkeel.training.backends import fsdp2, lora
from evenkeel.training.backends.gradient_norm import sharded_over
from evenkeel.training.distributed import Ranks, World

pytestmark = [
    # the library warns of what its own parts leave out
    pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron"),
    # and that experts, each whole on one rank, have no tensor parallelism to share tokens in
    pytest.mark.filterwarnings("ignore:.sequence_parallel. is set to .True.:UserWarning"),
]

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples/configs/models"
META = torch.device("meta")


def listed(backend: Backend) -> list[Path]:
    """The GPU recipes of all listings that train with ``backend``."""
    names = [
        entry.name
        for listing in suite.listings(ROOT)
        if not listing.is_disabled
        for entry in listing.entries
    ]
    found = [next((ROOT / "examples/configs/recipes").glob(f"*/{name}.yaml")) for name in names]
    recipes = [(path, config.load(path).recipe) for path in found]
    return [
        path
        for path, recipe in recipes
        if recipe.policy.backend is backend and recipe.cluster.device is not Device.CPU
    ]


def world_size(recipe: Recipe) -> int:
    return recipe.cluster.num_nodes * recipe.cluster.gpus_per_node


@contextmanager
def rank_of(size: int, rank: int = 0) -> Iterator[World]:
    """This process as one rank of ``size``, of which the others exist in name only."""
    store = FakeStore()
    dist.init_process_group("meta:fake,cpu:fake", store=store, rank=rank, world_size=size)
    try:
        yield World(Ranks(rank, size, rank % 8, 8), torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def architecture_of(policy: Policy) -> PretrainedConfig:
    """What the recipe describes, or else the file of the model that it names."""
    keys = policy.model_config
    if not keys:
        files = [config.load(path).recipe.policy for path in MODELS.glob("*.yaml")]
        keys = next(f.model_config for f in files if f.model_name == policy.model_name)
    return models.described_config(keys)


def policies(recipe: Recipe) -> list[Policy]:
    """Of the trained model and, in a distillation, of its teacher."""
    found = [recipe.policy]
    if recipe.algorithm is Algorithm.DISTILLATION:
        found.append(teacher_policy(recipe))
    return found


@pytest.mark.parametrize("path", listed(Backend.FSDP2), ids=lambda path: path.stem)
def test_torch(path: Path) -> None:
    resolved = config.load(path)
    check_supported(resolved)
    recipe, size = resolved.recipe, world_size(resolved.recipe)
    for policy in policies(recipe):
        check_parallel(policy, fsdp2.Fsdp2Backend.supported_parallel)
        architecture = architecture_of(policy)
        vision_model.check_recipe(recipe, architecture)
        model = models.build_on_meta(architecture)
        vision_model.freeze(model, policy.vision)
        lora.attach(model, policy, recipe.seed)
        total = models.num_parameters(model)
        with rank_of(size) as world:
            fsdp2.shard(model, world.mesh(policy.parallel), policy)
            weights = dict(model.named_parameters())
            assert all(isinstance(weight, DTensor) for weight in weights.values())
            assert {weight.device.type for weight in weights.values()} == {"meta"}
            over = {name: sharded_over(weight) for name, weight in weights.items()}
            here = sum(weight.to_local().numel() for weight in weights.values())
        assert models.num_parameters(model) == total
        assert all("dp" in dims for dims in over.values())
        tensor = policy.parallel.tensor_parallel_size
        matrices = [name for name in weights if ".q_proj.weight" in name and "vision" not in name]
        assert matrices
        assert all(("tp" in over[name]) == (tensor > 1) for name in matrices)
        if policy.vision is None or tensor == 1:  # a tower is whole on each tensor-parallel rank
            assert here * size == pytest.approx(total, rel=0.01)
        else:
            assert total < here * size < total * tensor


@pytest.mark.parametrize("path", listed(Backend.MEGATRON), ids=lambda path: path.stem)
def test_megatron(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pipeline stage takes its part of every weight of transformers' model."""
    from evenkeel.training.backends.megatron import layout, model_chunks, weights
    from evenkeel.training.backends.megatron.architecture import architecture
    from evenkeel.training.backends.megatron.weight_map import pieces

    resolved = config.load(path)
    check_supported(resolved)
    recipe, size = resolved.recipe, world_size(resolved.recipe)
    policy, parallel = recipe.policy, recipe.policy.parallel
    if policy.moe is not None:
        # kernels over all experts of a rank are Transformer Engine's: here, a matrix per expert
        policy.moe.grouped_gemm = False
    described = models.described_config(policy.model_config)
    whole = models.build_on_meta(described).state_dict()
    made = architecture(described, policy, torch.device("cuda"))
    build_without_gpus(monkeypatch)
    found: set[str] = set()
    num_stages = parallel.pipeline_parallel_size
    for stage in range(num_stages):
        with rank_of(size, rank=stage * (size // num_stages)) as world:
            place = layout.join_groups(parallel, world)
            assert (place.is_first_stage, place.is_last_stage) == (
                stage == 0,
                stage == num_stages - 1,
            )
            with META:
                chunks = model_chunks.build(made, place, policy, META)
            monkeypatch.setattr(weights, "_broadcast_merged", merged)
            parts = weights.spread(whole, chunks, described)
            for chunk, precise in zip(chunks, parts, strict=True):
                assert {weight.device.type for weight in chunk.parameters()} == {"meta"}
                assert {name for name, _ in chunk.named_parameters()} <= set(precise)
                found |= set(weights._local_places(chunk, described))
    every = [piece for piece in pieces(described) if not piece.is_copy]
    # each of these ranks is the first of its stage's expert-parallel group
    experts = {piece.expert for piece in every if piece.expert is not None}
    mine = {None, *range(len(experts) // parallel.expert_parallel_size)}
    wanted = {piece.name for piece in every if piece.expert in mine}
    assert found - {"output_layer.weight"} == wanted - {"output_layer.weight"}


def build_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library makes weights and streams on the current GPU, and gloo groups beside NCCL's."""
    from megatron.core import parallel_state

    from evenkeel.training.backends.megatron import cpu_shim

    cpu_shim.apply(cpu_shim.WITHOUT_ENGINE)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: META)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    create = parallel_state.create_group
    monkeypatch.setattr(parallel_state, "create_group", partial(create_in_name_only, create))


def create_in_name_only(create: Any, *arguments: Any, **options: Any) -> Any:
    options.pop("backend", None)
    return create(*arguments, **options)


def merged(piece: Any, whole: dict[str, torch.Tensor], _: torch.device) -> torch.Tensor:
    """In place of a broadcast: this process has the whole model, whichever rank it is."""
    return piece.merge([whole[name] for name in piece.sources])  # type: ignore[no-any-return]
