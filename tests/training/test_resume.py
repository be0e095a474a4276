"""A run that is stopped and continued is bit-equal to an unbroken one, on every backend.

Each algorithm's own tests hold this for the torch backend on one process; here stand several ranks,
the megatron backend, and what a checkpoint could forget: packing, bf16, experts, stages.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import curves, train, train_on_two_ranks

from evenkeel.recipes.schema import Algorithm

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

MEGATRON = "policy.backend=megatron"
TP2 = "policy.parallel.tensor_parallel_size=2"
PP2 = "policy.parallel.pipeline_parallel_size=2"
SP = "policy.parallel.sequence_parallel=true"
PACKED = "policy.sequence_packing.enabled=true"
BF16 = "policy.precision=bfloat16"
FOUR_LAYERS = "policy.model_config.num_hidden_layers=4"
MIXTURE = (
    "policy.model_config.model_type=mixtral",
    "++policy.model_config.num_local_experts=4",
    "++policy.model_config.num_experts_per_tok=2",
    "++policy.model_config.sliding_window=null",
)
ON_CPU = ("++policy.moe.token_dispatcher=allgather", "++policy.moe.grouped_gemm=false")
EXPERTS = (MEGATRON, *MIXTURE, *ON_CPU, "policy.parallel.expert_parallel_size=2")


def micro(size: int) -> str:
    return f"policy.train_micro_batch_size={size}"


TWO_RANKS = {
    "torch, fsdp2": [micro(2)],
    "torch, fsdp2 in bf16": [micro(4), BF16],
    "torch, tp2": [TP2],
    "torch, tp2 + sp": [TP2, SP],
    "megatron, dp2 in bf16": [MEGATRON, micro(4), BF16],
    "megatron, tp2 + sp": [MEGATRON, TP2, SP],
    "megatron, pp2": [MEGATRON, PP2, micro(2)],
    "megatron, pp2, interleaved": [
        MEGATRON,
        PP2,
        micro(2),
        FOUR_LAYERS,
        "policy.parallel.virtual_pipeline_parallel_size=2",
    ],
    "megatron, ep2": [*EXPERTS, micro(4)],
}
STEPS = "sft.max_num_steps=4"


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Per layout: 4 steps at once without a checkpoint, and 2 and 2 with one between."""
    folders = {
        name: (tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("halves"))
        for name in TWO_RANKS
    }
    runs = []
    for name, overrides in TWO_RANKS.items():
        whole, halves = folders[name]
        runs.append((whole, [STEPS, *overrides, "checkpointing.enabled=false"]))
        runs += [(halves, [STEPS, *overrides, "sft.steps_per_run=2"])] * 2
    assert train_on_two_ranks(runs) == [0] * len(runs)
    return folders


@pytest.mark.parametrize("layout", TWO_RANKS)
def test_on_two_ranks(on_two_ranks: dict[str, tuple[Path, Path]], layout: str) -> None:
    whole, halves = on_two_ranks[layout]
    assert_equal(whole, halves)


ONE_PROCESS = {
    "sft packed": (Algorithm.SFT, (PACKED, micro(2))),
    "sft in batches by tokens": (
        Algorithm.SFT,
        (
            "policy.dynamic_batching.enabled=true",
            "policy.dynamic_batching.train_micro_batch_tokens=128",
        ),
    ),
    "sft, experts": (Algorithm.SFT, MIXTURE),
    "megatron, sft in bf16": (Algorithm.SFT, (MEGATRON, BF16)),
    "megatron, sft packed": (Algorithm.SFT, (MEGATRON, PACKED, micro(2))),
    "megatron, sft, experts": (Algorithm.SFT, (MEGATRON, *MIXTURE, *ON_CPU)),
    "megatron, pretrain": (Algorithm.PRETRAIN, (MEGATRON,)),
    "megatron, dpo": (Algorithm.DPO, (MEGATRON,)),
    "megatron, distillation": (
        Algorithm.DISTILLATION,
        (MEGATRON, "distillation.teacher.warm_start.num_steps=2"),
    ),
}


@pytest.mark.parametrize("case", ONE_PROCESS)
def test_on_one_process(tmp_path: Path, case: str) -> None:
    algorithm, overrides = ONE_PROCESS[case]
    section = algorithm.value
    steps = f"{section}.max_num_steps=4"
    once = (steps, *overrides, "checkpointing.enabled=false")
    assert train(tmp_path / "whole", *once, algorithm=algorithm) == 0
    for _ in range(2):
        twice = (steps, *overrides, f"{section}.steps_per_run=2")
        assert train(tmp_path / "halves", *twice, algorithm=algorithm) == 0
    assert_equal(tmp_path / "whole", tmp_path / "halves")


def assert_equal(whole: Path, halves: Path) -> None:
    wanted, found = curves(whole), curves(halves)
    assert sorted(wanted["train/loss"]) == [1, 2, 3, 4]
    assert len(set(wanted["train/loss"].values())) == 4
    compared = [name for name in wanted if name.startswith(("train/", "validation/"))]
    measured = {"train/tokens_per_sec_per_gpu", "train/max_memory_gib"}
    for name in sorted(set(compared) - measured):
        assert found[name] == wanted[name], name
