"""What ``evenkeel recipe fit`` predicts against what trainings of small models really hold.

    uv run python benchmarks/memory_fit.py [--case NAME …] [--json]

Every case trains a small model on one to four processes on the CPU, with the trainers' own backends
and losses, and rows of full length. Weights, gradients and optimizer states are added up tensor by
tensor. The peak of a phase is what torch's allocator holds at most above what it held before, by
the profiler's record of every allocation, the lowest of three rounds; the formulas' parts of that
phase, less those that are there before it, stand against it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel.recipes import config
from evenkeel.recipes.memory_fit import fit
from evenkeel.recipes.memory_fit.cards import CARDS
from evenkeel.recipes.schema import Algorithm, Backend, Recipe

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "examples" / "configs"

LLAMA = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
QWEN3 = {**LLAMA, "model_type": "qwen3", "tie_word_embeddings": False}
GEMMA3 = {**LLAMA, "model_type": "gemma3_text", "sliding_window": 64}
ALL_HEADS = {**LLAMA, "num_key_value_heads": 8}
MIXTRAL = {
    **ALL_HEADS,
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
LLAVA = {
    "model_type": "llava",
    "image_token_index": 265,
    "vision_feature_layer": -1,
    "text_config": LLAMA,
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "patch_size": 4,
        "image_size": 64,
        "projection_dim": 128,
    },
    "tie_word_embeddings": True,
}
LLAVA_ALL_HEADS = {**LLAVA, "text_config": ALL_HEADS}


@dataclass(frozen=True)
class Case:
    """One training to predict and to measure."""

    name: str
    num_ranks: int
    overrides: tuple[str, ...] = ()
    model: Any = None
    algorithm: Algorithm = Algorithm.SFT


TP2 = ("policy.parallel.tensor_parallel_size=2",)
PP2 = ("policy.parallel.pipeline_parallel_size=2",)
SP = ("policy.parallel.sequence_parallel=true",)
MEGATRON = ("policy.backend=megatron",)
BF16 = ("policy.precision=bfloat16",)
CHECKPOINTED = ("policy.activation_checkpointing=true",)
ACCUMULATED = ("policy.train_global_batch_size=16",)
VAL_2 = ("sft.val_micro_batch_size=2",)
LORA = ("policy.lora={rank: 8}",)
# from 256 positions on, the CPU would attend sample by sample, which GPUs do not
PACKED = ("policy.sequence_packing.enabled=true", "policy.max_total_sequence_length=248")
SEES = ("policy.vision={freeze_vision_tower: false}",)
SEES_BY_PROJECTOR = ("policy.vision={freeze_language_model: true}",)
EP2 = ("policy.parallel.expert_parallel_size=2",)
EXPERTS = (
    "policy.moe={token_dispatcher: allgather, grouped_gemm: false}",
    *EP2,
    "policy.parallel.expert_tensor_parallel_size=1",
)

CASES = (
    Case("fsdp2 dp1", 1),
    Case("fsdp2 dp1 bf16", 1, BF16),
    Case("fsdp2 dp2", 2),
    Case("fsdp2 dp2 bf16, 2 micro-batches", 2, BF16 + ACCUMULATED),
    Case("fsdp2 tp2", 2, TP2),
    Case("fsdp2 tp2 sp", 2, TP2 + SP),
    Case("fsdp2 dp1 mixtral", 1, (), MIXTRAL),
    Case("fsdp2 tp2 ep2 mixtral", 2, TP2 + EP2, MIXTRAL),
    Case("fsdp2 tp2 ep2 mixtral bf16, 2 micro-batches", 2, TP2 + EP2 + BF16 + ACCUMULATED, MIXTRAL),
    Case("fsdp2 tp2 sp ep2 mixtral", 2, TP2 + SP + EP2, MIXTRAL),
    Case("fsdp2 dp2 tp2 ep2 mixtral", 4, TP2 + EP2, MIXTRAL),
    Case("fsdp2 pp2, 4 micro-batches", 2, PP2 + ACCUMULATED),
    Case("fsdp2 pp2 bf16, 4 micro-batches", 2, PP2 + ACCUMULATED + BF16),
    Case("fsdp2 dp1 recomputed", 1, CHECKPOINTED),
    Case("fsdp2 dp2 bf16 recomputed", 2, BF16 + CHECKPOINTED),
    Case("fsdp2 dp1 packed", 1, PACKED),
    Case("fsdp2 dp1 logits in chunks", 1, ("policy.logits_chunk_size=128",)),
    Case("fsdp2 dp1 lora", 1, LORA),
    Case("fsdp2 dp1 qwen3 bf16", 1, BF16, QWEN3),
    Case("fsdp2 dp1 gemma3", 1, (), GEMMA3),
    Case("fsdp2 dp1 llava", 1, SEES, LLAVA),
    Case("fsdp2 dp1 llava, projector", 1, SEES_BY_PROJECTOR, LLAVA),
    Case("fsdp2 dp2, validation 2 by 2", 2, VAL_2),
    Case("fsdp2 dp2 dpo", 2, (), None, Algorithm.DPO),
    Case("fsdp2 dp1 grpo", 1, (), None, Algorithm.GRPO),
    Case("megatron dp1", 1, MEGATRON, ALL_HEADS),
    Case("megatron dp2 bf16", 2, MEGATRON + BF16, ALL_HEADS),
    Case("megatron tp2", 2, MEGATRON + TP2, ALL_HEADS),
    Case("megatron tp2 sp", 2, MEGATRON + TP2 + SP, ALL_HEADS),
    Case("megatron tp2, validation 2 by 2", 2, MEGATRON + TP2 + VAL_2, ALL_HEADS),
    Case("megatron pp2, 2 micro-batches", 2, MEGATRON + PP2 + ACCUMULATED, ALL_HEADS),
    Case("megatron dp1 recomputed", 1, MEGATRON + CHECKPOINTED, ALL_HEADS),
    Case("megatron tp2 dpo", 2, MEGATRON + TP2, ALL_HEADS, Algorithm.DPO),
    Case("megatron tp2 dpo bf16", 2, MEGATRON + TP2 + BF16, ALL_HEADS, Algorithm.DPO),
    Case("megatron dp1 grpo", 1, MEGATRON, ALL_HEADS, Algorithm.GRPO),
    Case("megatron ep2 mixtral", 2, MEGATRON + EXPERTS, MIXTRAL),
    Case("megatron dp1 llava", 1, MEGATRON + SEES, LLAVA_ALL_HEADS),
    Case("megatron tp2 llava, projector", 2, MEGATRON + TP2 + SEES_BY_PROJECTOR, LLAVA_ALL_HEADS),
    Case("megatron pp2 llava", 2, MEGATRON + PP2 + SEES, LLAVA_ALL_HEADS),
)


def recipe_of(case: Case) -> Recipe:
    """The recipe that is predicted and trained."""
    model = json.dumps(case.model or LLAMA)
    algorithm = case.algorithm.value
    resolved = config.load(
        CONFIGS / f"{algorithm}.yaml",
        [
            f"++policy.model_config={model}",
            "policy.precision=float32",
            "policy.max_total_sequence_length=256",
            f"policy.train_global_batch_size={4 * case.num_ranks}",
            "policy.train_micro_batch_size=4",
            f"{algorithm}.val_global_batch_size={8 * case.num_ranks}",
            f"{algorithm}.val_micro_batch_size={8 * case.num_ranks}",
            *(["policy.generation.max_new_tokens=192", "grpo.num_prompts_per_step=1"]
              if case.algorithm is Algorithm.GRPO else []),
            f"cluster.gpus_per_node={case.num_ranks}",
            "cluster.device=cpu",
            *(f"++{override}" for override in case.overrides),
        ],
    )  # fmt: skip
    return resolved.recipe


def predicted(case: Case) -> list[dict[str, float]]:
    """Bytes by what they are for, per pipeline stage."""
    recipe = recipe_of(case)
    models = fit.models_of(recipe, CONFIGS / "models")
    found = fit.fit(case.name, recipe, models, CARDS["h100-80gb"])
    preallocates = recipe.policy.backend is Backend.MEGATRON
    stages = []
    for stage in found.stages:
        parts = {phase.name: dict(phase.parts) for phase in stage.phases}
        update = parts["update"]
        sizes = {
            "weights": update["weights"],
            "gradients": update["gradients"],
            "optimizer": update["optimizer"],
            "reference": update.get("reference", 0.0),
        }
        before = {"weights", "optimizer", "reference", "overhead"}
        for name in ("train", "validate", "generate"):
            if name in parts:
                held = before | ({"gradients"} if preallocates else set())
                sizes[name] = sum(v for part, v in parts[name].items() if part not in held)
        stages.append(sizes)
    return stages


def measured(cases: list[Case]) -> list[list[dict[str, float]]]:
    """Per case, of each rank; cases of as many ranks share their processes."""
    found: dict[str, list[dict[str, float]]] = {}
    for num_ranks in sorted({case.num_ranks for case in cases}):
        names = [case.name for case in cases if case.num_ranks == num_ranks]
        for name, ranks in zip(names, _on_ranks(names, num_ranks), strict=True):
            found[name] = ranks
    return [found[case.name] for case in cases]


def _on_ranks(names: list[str], num_ranks: int) -> list[list[dict[str, float]]]:
    ports = [_free_port() for _ in names]
    ranks = []
    for rank in range(num_ranks):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "KINETO_LOG_LEVEL": "99",  # it says that there is no GPU
        }
        script = Path(__file__).with_name("memory_fit_rank.py")
        command = [sys.executable, str(script), json.dumps([names, ports])]
        ranks.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit("a rank failed; its message stands above")
    results = [json.loads(output.splitlines()[-1]) for output in outputs]
    return [list(of_case) for of_case in zip(*results, strict=True)]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def compare(cases: list[Case]) -> Iterator[dict[str, Any]]:
    """(case, stage, what, predicted, measured): of the rank of a stage that holds the most."""
    for case, ranks in zip(cases, measured(cases), strict=True):
        stages = predicted(case)
        per_stage = len(ranks) // len(stages)
        for index, sizes in enumerate(stages):
            mine = ranks[index * per_stage : (index + 1) * per_stage]
            for what, expected in sizes.items():
                held = max(rank[what] for rank in mine)
                if expected or held:
                    yield {
                        "case": case.name,
                        "stage": index,
                        "what": what,
                        "predicted": expected,
                        "measured": held,
                    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", metavar="NAME", help="only these")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cases = [case for case in CASES if not arguments.case or case.name in arguments.case]
    rows = list(compare(cases))
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'case':36} {'stage':>5} {'what':10} {'predicted':>12} {'measured':>12}  ratio")
    for row in rows:
        ratio = row["predicted"] / row["measured"] if row["measured"] else float("inf")
        print(
            f"{row['case']:36} {row['stage']:>5} {row['what']:10} "
            f"{row['predicted']:12,.0f} {row['measured']:12,.0f}  {ratio:.3f}"
        )


if __name__ == "__main__":
    main()
