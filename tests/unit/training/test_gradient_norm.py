"""Which parts of a gradient are added up over which ranks."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from evenkeel.recipes.schema import Parallel, Policy, Precision
from evenkeel.training import models
from evenkeel.training.backends import fsdp2
from evenkeel.training.backends.gradient_norm import sharded_over

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BOTH = {"dp", "tp"}


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_a_weight_split_twice_is_summed_over_both(sequence_parallel: bool) -> None:
    policy = Policy(
        model_config=LLAMA,
        precision=Precision.FLOAT32,
        parallel=Parallel(tensor_parallel_size=2, sequence_parallel=sequence_parallel),
    )
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        model = models.build_on_meta(models.described_config(LLAMA))
        fsdp2.shard(model, init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp")), policy)
        found = {name: sharded_over(weight) for name, weight in model.named_parameters()}
    finally:
        dist.destroy_process_group()
    layer = "model.layers.0"
    assert found[f"{layer}.self_attn.q_proj.weight"] == BOTH  # both split its rows
    assert found[f"{layer}.self_attn.o_proj.weight"] == BOTH  # rows and columns
    assert found["model.embed_tokens.weight"] == BOTH
    assert found["lm_head.weight"] == BOTH
    assert found[f"{layer}.input_layernorm.weight"] == {"dp"}
    assert found["model.norm.weight"] == {"dp"}
