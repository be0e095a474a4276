from __future__ import annotations

from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes.config import load
from evenkeel.recipes.support import check_supported


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\n", encoding="utf-8")
    return path


def test_what_is_built_passes(path: Path) -> None:
    check_supported(load(path))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("policy:\n  precision: fp8\n", 2, "policy.precision is fp8"),
        (
            "policy:\n  backend: megatron\n  lora: {rank: 8}\n",
            3,
            "policy.lora asks for low-rank updates",
        ),
        (
            "policy:\n  backend: megatron\n  torch_compile: true\n",
            3,
            "policy.torch_compile asks for torch.compile",
        ),
        (
            "policy:\n  warm_start: {lr: 1e-3}\n",
            2,
            "policy.warm_start asks sft for supervised steps before its own",
        ),
        (
            "policy:\n  backend: megatron\n  parallel: {pipeline_parallel_size: 2}\n"
            "  generation: {backend: vllm}\n",
            4,
            "policy.generation.backend asks for vllm beside a pipeline",
        ),
        ("policy:\n  moe: {}\n", 2, "policy.moe asks for options of a mixture of experts"),
        (
            "policy:\n  lora: {rank: 8}\n  parallel: {pipeline_parallel_size: 2}\n",
            2,
            "policy.lora asks for low-rank updates beside a pipeline",
        ),
        (
            "policy:\n  vision: {}\n  parallel: {pipeline_parallel_size: 2}\n",
            2,
            "policy.vision asks for a vision-language model beside a pipeline",
        ),
        (
            "policy:\n  torch_compile: true\n  parallel: {pipeline_parallel_size: 2}\n",
            2,
            "policy.torch_compile asks for torch.compile beside a pipeline",
        ),
        (
            "policy:\n  parallel: {pipeline_parallel_size: 2}\n  dynamic_batching:\n"
            "    enabled: true\n",
            4,
            "policy.dynamic_batching.enabled asks for micro-batches of different shape beside a "
            "pipeline",
        ),
        (
            "policy:\n  parallel:\n    pipeline_parallel_size: 2\n    sequence_parallel: true\n",
            4,
            "policy.parallel.sequence_parallel asks for sequence parallelism beside a pipeline",
        ),
        (
            "algorithm: grpo\npolicy:\n  parallel: {pipeline_parallel_size: 2}\ngrpo: {}\n",
            3,
            "policy.parallel.pipeline_parallel_size asks grpo for a pipeline",
        ),
    ],
)
def test_what_would_be_ignored_is_refused(path: Path, text: str, line: int, message: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        check_supported(load(path))
    backend = "megatron" if "megatron" in text else "fsdp2"
    assert caught.value.message == (
        f"{message}, which this version does not train with policy.backend={backend}"
    )
    assert caught.value.path == str(path)
    assert caught.value.line in (line, None)
