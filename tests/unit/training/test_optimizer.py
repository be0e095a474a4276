"""Which weights decay, and where one kernel may step all of them."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from evenkeel.recipes.schema import Optimizer, Parallel, Policy, Precision
from evenkeel.training import models
from evenkeel.training.backends import fsdp2
from evenkeel.training.backends.optimizer import adamw, can_fuse

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_matrices_decay_and_embeddings_and_norms_do_not() -> None:
    model = models.build_on_meta(models.described_config(LLAMA))
    names = {id(weight): name for name, weight in model.named_parameters()}
    groups = adamw(model, Optimizer(weight_decay=0.1)).param_groups
    decays, stays = ({names[id(one)] for one in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert stays == {name for name in names.values() if "norm" in name or "embed" in name}
    assert decays | stays == set(names.values())


@pytest.mark.parametrize(
    ("dp", "tp", "fuses"), [(1, 1, True), (4, 1, True), (1, 2, False), (2, 2, False)]
)
def test_weights_on_meshes_of_their_own_are_not_fused(dp: int, tp: int, fuses: bool) -> None:
    """Tensor parallelism leaves the norms out of its mesh."""
    policy = Policy(
        model_config=LLAMA,
        precision=Precision.FLOAT32,
        parallel=Parallel(tensor_parallel_size=tp),
    )
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=dp * tp)
    try:
        model = models.build_on_meta(models.described_config(LLAMA))
        fsdp2.shard(model, init_device_mesh("cpu", (dp, tp), mesh_dim_names=("dp", "tp")), policy)
        assert can_fuse(list(model.parameters())) is fuses
    finally:
        dist.destroy_process_group()
