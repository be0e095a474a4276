from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from evenkeel.errors import InputError
from evenkeel.recipes import config
from evenkeel.recipes.schema import Algorithm, Backend, Policy, Recipe, Vision
from evenkeel.recipes.support import check_parallel
from evenkeel.training import models, vision_model
from evenkeel.training.backends import fsdp2

RECIPES = Path(__file__).parents[3] / "examples/configs/recipes/vlm"

# recipe → layers of tower and language model, and billions of weights that are trained
EXPECTED = {
    "vlm_sft-smolvlm2-2.2b-instruct-1n8g-fsdp2tp1": (27, 24, 1.834),
    "vlm_sft-qwen2.5-vl-3b-instruct-1n4g-fsdp2tp2": (32, 36, 3.123),
    "vlm_sft-qwen2.5-vl-7b-instruct-2n8g-fsdp2tp4-actckpt": (32, 28, 8.292),
    "vlm_sft-llava1.5-7b-1n8g-fsdp2tp1-actckpt": (24, 32, 0.021),
    "vlm_sft-gemma3-4b-it-1n8g-fsdp2tp1": (27, 34, 3.883),
    "vlm_grpo-smolvlm2-2.2b-instruct-1n4g-fsdp2tp1": (27, 24, 1.834),
    "vlm_grpo-qwen2.5-vl-3b-instruct-1n8g-dtensor2tp1.v2": (32, 36, 3.123),
    "vlm_grpo-gemma3-12b-it-2n8g-fsdp2tp4-actckpt": (27, 48, 11.770),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_recipes_build_with_their_parallel_plan(name: str) -> None:
    recipe = config.load(RECIPES / f"{name}.yaml").recipe
    policy = recipe.policy
    architecture = models.described_config(policy.model_config)
    vision_model.check_recipe(recipe, architecture)
    check_parallel(policy, fsdp2.Fsdp2Backend.supported_parallel)
    model = models.build_on_meta(architecture)
    vision_model.freeze(model, policy.vision)
    num_blocks = len(list(models.transformer_blocks(model)))
    num_text_blocks = len(list(models.text_blocks(model)))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert (num_blocks - num_text_blocks, num_text_blocks) == EXPECTED[name][:2]
    assert trained / 1e9 == pytest.approx(EXPECTED[name][2], abs=1e-3)

    size, tp = recipe.cluster.num_nodes * recipe.cluster.gpus_per_node, policy.parallel
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        shape = (size // tp.tensor_parallel_size, tp.tensor_parallel_size)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("dp", "tp"))
        fsdp2.shard(model, mesh, policy)
        weights = list(model.parameters())
        assert all(isinstance(weight, DTensor) for weight in weights)
        split = {weight.device_mesh.mesh_dim_names for weight in weights}
        assert split == ({("dp",), ("dp", "tp")} if tp.tensor_parallel_size > 1 else {("dp",)})
    finally:
        dist.destroy_process_group()


FROZEN = Vision(freeze_vision_tower=True, freeze_projector=True, freeze_language_model=True)
LLAMA = {"model_type": "llama", "vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2}
LLAVA = {"model_type": "llava", "text_config": LLAMA}
GEMMA = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}


@pytest.mark.parametrize(
    ("described", "changes", "message"),
    [
        (LLAVA, {"vision": None}, "llava is a vision-language model, and the recipe has no"),
        (LLAMA, {}, "the recipe has policy.vision, and llama sees no images"),
        (GEMMA, {"backend": Backend.MEGATRON}, "no model that sees images as a gemma3 does"),
        (LLAVA, {"backend": Backend.MEGATRON, "cp": 2}, "megatron.training, which it does not bri"),
        (GEMMA, {"pack": True}, "images of a gemma3 cannot be packed"),
        (LLAVA, {"algorithm": Algorithm.DPO}, "are not trained by dpo"),
        (LLAVA, {"algorithm": Algorithm.GRPO, "sp": True}, "parallelism cannot generate"),
        (LLAVA, {"vision": FROZEN}, "nothing is trained"),
    ],
)
def test_what_cannot_be_trained(
    described: dict[str, object], changes: dict[str, object], message: str
) -> None:
    policy = Policy(model_config=described, vision=Vision())
    policy.backend = changes.get("backend", policy.backend)  # type: ignore[assignment]
    policy.sequence_packing.enabled = bool(changes.get("pack"))
    policy.parallel.tensor_parallel_size = 2
    policy.parallel.sequence_parallel = bool(changes.get("sp"))
    policy.parallel.context_parallel_size = changes.get("cp", 1)  # type: ignore[assignment]
    if "vision" in changes:
        policy.vision = changes["vision"]  # type: ignore[assignment]
    recipe = Recipe(policy=policy, algorithm=changes.get("algorithm", Algorithm.SFT))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        vision_model.check_recipe(recipe, models.described_config(described))
