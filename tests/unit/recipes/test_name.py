"""Names are read into fields and written back; what breaks the grammar is told where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.recipes import name
from evenkeel.recipes.strategy import Strategy

REAL = [
    "grpo-qwen2.5-7b-instruct-4n8g-fsdp2tp4sp.v3",
    "grpo-llama3.1-8b-instruct-1n8g-megatron-fp8",
    "grpo-llama3.1-8b-instruct-4n8g-fsdp2tp1-long.v3",
    "sft-llama3.1-70b-8n8g-tp4pp2-long-megatron",
    "sft-llama3.1-8b-1n8g-megatron-seqpack",
    "dpo-mistral-nemo-instruct-2407-1n8g-fsdp2tp8-actckpt-long",
    "grpo-moonlight-16ba3b-4n8g-megatron",
    "grpo-moonlight-16b-automodel-1n8g-ep8",
    "grpo-qwen3-30ba3b-8n8g-megatron",
    "grpo-dapomath17k-dsv3-32n4g-megatron",
    "distillation-qwen3-32b-to-4b-base-2n8g-fsdp2tp2-dynamicbatch.v1",
    "distillation-qwen3-32b-to-1.7b-base-1n8g-megatron-tp2pp2cp2-pack",
    "vlm_grpo-qwen2.5-vl-3b-instruct-clevr-1n2g-dtensor2tp1.v1",
    "vlm_grpo-qwen2.5-vl-3b-instruct-clevr-1n8g-megatrontp2.v1",
    "vlm_grpo-smolvlm2-2.2b-instruct-clevr-1n2g-dtensor2tp1.v1",
    "grpo-gemma3-27b-it-8n4g-fsdp2tp8-actckpt-long",
    "sft-gpt-oss-20b-1n8g-fsdp8ep8-automodel",
    "dpo-llama3.1-8b-instruct-4n8g-fsdp2tp2-quick.v2",
    "dpo-llama3.1-8b-instruct-4n8g-megatrontp2pp2-quick",
    "grpo-qwen3-8b-base-1n8g-fp8-kvcache-megatron",
    "grpo-nanov3-30BA3B-2n8g-fsdp2-lora",
    "prorlv2-qwen2.5-math-1.5b-instruct-1n8g-fsdp2tp1",
    "grpo-llama3.1-8b-instruct-2n8g-fsdp2tp1-noncolocated",
    "grpo-qwen3-30ba3b-4n8g-megatron-temp0.8-topp0.9-topk50",
    "grpo-llama3.1-8b-instruct-1n8g-megatron-fp8-rollouts.v3",
    "grpo-helpsteer3-llama-3.3-nemotron-super-49b-v1.5-8n8g-fsdp2tp8cp4",
    "sft-qwen2.5-32b-4n8g-fsdp2tp8sp-actckpt.v3",
    "sft-llama3.2-1b-1n8g-fsdp2tp1",
]

EXCEPTIONS = [
    "grpo-deepscaler-1.5b-8K",
    "grpo-deepscaler-1.5b-24K.v2",
    "grpo-gspo-deepscaler-1.5b-8K",
    "grpo-math-qwen3-30ba3b-megatron-tp4-32k",
]


def fault(text: str) -> name.InvalidNameError:
    with pytest.raises(name.InvalidNameError) as caught:
        name.parse(text)
    return caught.value


@pytest.mark.parametrize("text", REAL)
def test_real_names_round_trip(text: str) -> None:
    read = name.parse(text)
    assert str(read) == text
    assert not read.needs_declaration
    assert name.is_legal(text)


@pytest.mark.parametrize("text", EXCEPTIONS)
def test_a_context_length_may_stand_for_the_allocation_when_declared(text: str) -> None:
    read = name.parse(text)
    assert str(read) == text
    assert read.needs_declaration
    assert (read.num_nodes, read.gpus_per_node) == (None, None)
    assert read.context is not None
    assert not name.is_legal(text)


def test_every_field_of_a_full_name() -> None:
    read = name.parse("vlm_grpo-qwen2.5-vl-3b-instruct-4n8g-megatrontp4pp2cp2sp-fp8-long.v12")
    assert read.to_json() == {
        "name": "vlm_grpo-qwen2.5-vl-3b-instruct-4n8g-megatrontp4pp2cp2sp-fp8-long.v12",
        "algo": "grpo",
        "vlm": True,
        "model": "qwen2.5-vl-3b-instruct",
        "num_nodes": 4,
        "gpus_per_node": 8,
        "strategy": {
            "backend": "megatron",
            "tp": 4,
            "pp": 2,
            "cp": 2,
            "ep": None,
            "sp": True,
            "fsdp": None,
            "dp": None,
            "etp": None,
            "vpp": None,
        },
        "modifiers": ["fp8"],
        "long": True,
        "version": 12,
        "context": None,
        "needs_declaration": False,
    }


@pytest.mark.parametrize(
    ("tail", "strategy", "modifiers", "long"),
    [
        ("fsdp2tp8sp", Strategy(backend="fsdp2", tp=8, sp=True), [], False),
        ("tp4pp2-long-megatron", Strategy(backend="megatron", tp=4, pp=2), [], True),
        ("fp8-kvcache-megatron", Strategy(backend="megatron"), ["fp8", "kvcache"], False),
        ("fsdp8ep8-automodel", Strategy(backend="fsdp2", fsdp=8, ep=8), ["automodel"], False),
        ("automodel-ep8", Strategy(backend="automodel", ep=8), [], False),
        ("dtensor2tp1", Strategy(backend="dtensor", tp=1), [], False),
        ("fsdp2tp1-sp", Strategy(backend="fsdp2", tp=1), ["sp"], False),
        ("fsdp2tp1fp8-quick", Strategy(backend="fsdp2", tp=1), ["fp8", "quick"], False),
        ("ep8", Strategy(ep=8), [], False),
        ("megatron_generation", Strategy(backend="megatron"), ["generation"], False),
    ],
)
def test_strategy_and_modifiers_stand_in_any_order(
    tail: str, strategy: Strategy, modifiers: list[str], long: bool
) -> None:
    read = name.parse(f"sft-m-1n8g-{tail}")
    assert (read.strategy, list(read.modifiers), read.long) == (strategy, modifiers, long)


@pytest.mark.parametrize(
    ("text", "position", "expected", "nearest"),
    [
        ("", 1, "an algorithm", "sft-model-1n8g-fsdp2tp1"),
        ("SFT-llama3-8b-1n8g-fsdp2tp1", 1, "an algorithm", "sft-llama3-8b-1n8g-fsdp2tp1"),
        ("sft-1n8g-fsdp2tp1", 5, "a model", "sft-model-1n8g-fsdp2tp1"),
        ("sft-llama3-8b-fsdp2tp1", 15, "the allocation", "sft-llama3-8b-1n8g-fsdp2tp1"),
        ("sft-llama3-8b-8g4n-fsdp2tp1", 15, "the allocation", "sft-llama3-8b-4n8g-fsdp2tp1"),
        ("sft-llama3-8b-04n8g-fsdp2tp1", 15, "the allocation", "sft-llama3-8b-4n8g-fsdp2tp1"),
        ("sft-llama3-8b-4n-8g-fsdp2tp1", 15, "the allocation", "sft-llama3-8b-4n8g-fsdp2tp1"),
        ("sft-llama3-8b-1n8g", 19, "a strategy", "sft-llama3-8b-1n8g-fsdp2tp1"),
        ("grpo-deepseek-v3-2n8g", 22, "a strategy", "grpo-deepseek-v3-2n8g-fsdp2tp1"),
        ("sft-llama3-8b-1n8g-v2-tp2", 20, "the version", "sft-llama3-8b-1n8g-tp2"),
        ("sft-llama3-8b-1n8g-fp8", 20, "a strategy", "sft-llama3-8b-1n8g-fsdp2tp1-fp8"),
        ("sft-llama3-8b-1n8g-fsdp2tp", 27, "tp and a whole", "sft-llama3-8b-1n8g-fsdp2tp1"),
        ("sft-llama3-8b-1n8g-fsdp2tp02", 27, "tp and a whole", "sft-llama3-8b-1n8g-fsdp2tp2"),
        ("sft-llama3-8b-1n8g-fsdp2xp2", 25, "a parallel size", "sft-llama3-8b-1n8g-fsdp2tp2"),
        ("sft-llama3-8b-1n8g-fsdp2tp2tp4", 28, "one size", "sft-llama3-8b-1n8g-fsdp2tp2"),
        ("sft-m-1n8g-tp4-pp2tp8-sp", 19, "one size", "sft-m-1n8g-tp4-pp2-sp"),
        ("sft-llama3-8b-1n8g-fsdp2tp1-megatron", 29, "one backend", "sft-llama3-8b-1n8g-fsdp2tp1"),
        ("sft-llama3-8b-1n8g-tp2-2n8g", 24, "a strategy or", "sft-llama3-8b-1n8g-tp2"),
        ("sft-llama3-8b-1n8g-tp2-v3", 24, "a version", "sft-llama3-8b-1n8g-tp2.v3"),
        ("sft-llama3-8b-1n8g-tp2.v03", 23, "a version", "sft-llama3-8b-1n8g-tp2.v3"),
        ("sft-llama3-8b-1n8g-tp2.v3-long", 23, "the version", "sft-llama3-8b-1n8g-tp2-long.v3"),
        ("sft-llama3-8b-1n8g-tp2-long-long", 29, "another", "sft-llama3-8b-1n8g-tp2-long"),
        ("sft-llama3 8b-1n8g-tp2", 11, "a letter", "sft-llama3-8b-1n8g-tp2"),
        ("sft--llama3-8b-1n8g-tp2", 5, "a word", "sft-llama3-8b-1n8g-tp2"),
        ("vlm-grpo-qwen2-vl-1n8g-tp2", 4, "'_'", "vlm_grpo-qwen2-vl-1n8g-tp2"),
        ("llm/sft-m-1n8g-tp2.sh", 4, "a letter", "sft-m-1n8g-tp2"),
    ],
)
def test_a_broken_name_is_told_where_and_what_is_nearest(
    text: str, position: int, expected: str, nearest: str | None
) -> None:
    error = fault(text)
    assert error.position == position
    assert error.expected.startswith(expected)
    assert name.is_legal(error.nearest)
    if nearest is not None:
        assert error.nearest == nearest


def test_a_declared_exception_may_state_neither_allocation_nor_strategy() -> None:
    read = name.parse("dapo-qwen2.5-7b.v2", declared=True)
    assert (read.model, read.version, read.needs_declaration) == ("qwen2.5-7b", 2, True)
    read = name.parse("grpo-deepseek-v3-32n8g-async-1off", declared=True)
    assert (read.num_nodes, read.modifiers) == (32, ("async", "1off"))
    assert "allocation" in fault("dapo-qwen2.5-7b.v2").expected
    assert "strategy" in fault("grpo-deepseek-v3-32n8g-async-1off").expected


@given(st.text(max_size=300) | st.text("sft-1n8g.vpK_ ", max_size=60))
def test_no_text_crashes_the_parser_and_what_it_reads_it_writes(text: str) -> None:
    for declared in (False, True):
        try:
            read = name.parse(text, declared=declared)
        except name.InvalidNameError as error:
            assert 1 <= error.position <= len(text) + 1
            assert name.is_legal(error.nearest)
        else:
            assert str(read) == text
