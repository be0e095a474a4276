from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig, MixtralConfig, OlmoeConfig, Qwen3MoeConfig

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Parallel
from evenkeel.training import models
from evenkeel.training.backends import expert_parallel

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "pad_token_id": 0,
}
MIXTRAL = MixtralConfig(**SMALL, num_local_experts=6)
QWEN3 = Qwen3MoeConfig(**SMALL, num_experts=6, moe_intermediate_size=8, mlp_only_layers=[1])
OLMOE = OlmoeConfig(**SMALL, num_experts=6)
LLAMA = LlamaConfig(**SMALL)


def check(config: Any, tensor: int, experts: int, within: int | None = None) -> None:
    parallel = Parallel(
        tensor_parallel_size=tensor,
        expert_parallel_size=experts,
        expert_tensor_parallel_size=within,
    )
    expert_parallel.check_supported(models.build_on_meta(config), config, parallel)


@pytest.mark.parametrize(
    ("config", "tensor", "experts", "within"),
    [
        (MIXTRAL, 2, 2, None),
        (MIXTRAL, 2, 2, 1),
        (QWEN3, 3, 3, None),
        (MIXTRAL, 1, 1, None),
        (OLMOE, 1, 1, None),
        (LLAMA, 2, 1, None),
    ],
)
def test_what_can_be_shared_out_passes(
    config: Any, tensor: int, experts: int, within: int | None
) -> None:
    check(config, tensor, experts, within)


@pytest.mark.parametrize(
    ("config", "sizes", "message", "fix"),
    [
        (
            MIXTRAL,
            (2, 1),
            "policy.parallel.tensor_parallel_size is 2 and expert_parallel_size 1; on the fsdp2 "
            "backend the ranks that share attention's matrices share the experts, too",
            "set policy.parallel.expert_parallel_size=2",
        ),
        (
            QWEN3,
            (4, 2),
            "policy.parallel.tensor_parallel_size is 4 and expert_parallel_size 2; on the fsdp2 "
            "backend the ranks that share attention's matrices share the experts, too",
            "set policy.parallel.expert_parallel_size=4",
        ),
        (
            MIXTRAL,
            (1, 2),
            "policy.parallel.tensor_parallel_size is 1 and expert_parallel_size 2; on the fsdp2 "
            "backend the ranks that share attention's matrices share the experts, too",
            "set policy.parallel.tensor_parallel_size=2, or policy.parallel.expert_parallel_size=1",
        ),
        (
            MIXTRAL,
            (2, 2, 2),
            "policy.parallel.expert_tensor_parallel_size is 2 and expert_parallel_size 2, and the "
            "fsdp2 backend keeps every expert whole",
            "set policy.parallel.expert_tensor_parallel_size=null",
        ),
        (
            LLAMA,
            (2, 1, 1),
            "policy.parallel.expert_tensor_parallel_size is 1 and expert_parallel_size 1, and the "
            "fsdp2 backend keeps every expert whole",
            "set policy.parallel.expert_tensor_parallel_size=null",
        ),
        (
            MIXTRAL,
            (4, 4),
            "policy.parallel.expert_parallel_size is 4, which does not divide the model's 6 "
            "experts",
            "set it and policy.parallel.tensor_parallel_size to a number that divides 6",
        ),
        (
            LLAMA,
            (2, 2),
            "policy.parallel.expert_parallel_size is 2, and a llama model has no experts",
            "set policy.parallel.expert_parallel_size=1",
        ),
        (
            OLMOE,
            (2, 2),
            "policy.parallel.tensor_parallel_size is 2 and expert_parallel_size 2, and the fsdp2 "
            "backend does not know how to split olmoe models",
            "set both to 1, choose policy.backend=megatron, or train one of mixtral, qwen3_moe",
        ),
    ],
)
def test_what_cannot_is_refused(
    config: Any, sizes: tuple[int, ...], message: str, fix: str
) -> None:
    with pytest.raises(InputError) as refused:
        check(config, *sizes)
    assert (refused.value.message, refused.value.fix) == (message, fix)


def test_only_some_layers_are_dense() -> None:
    found = [
        expert_parallel.has_dense_layers(models.build_on_meta(config))
        for config in (LLAMA, QWEN3, MIXTRAL)
    ]
    assert found == [True, True, False]
