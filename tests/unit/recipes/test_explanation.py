"""What a name says in words, whole."""

from __future__ import annotations

import pytest

from evenkeel.recipes import name, vocabulary
from evenkeel.recipes.explanation import explain, uneven_split
from evenkeel.recipes.name_exception import NameException


def test_a_full_name_in_words() -> None:
    read = name.parse("vlm_grpo-qwen2.5-vl-3b-instruct-clevr-4n8g-megatrontp2pp2sp-fp8-rollouts.v2")
    assert explain(read, vocabulary.load()) == [
        (
            "trains",
            "Qwen2.5-VL, 3 billion parameters, tuned to instructions; images and text; "
            "data: CLEVR (questions about rendered scenes)",
        ),
        (
            "by",
            "group relative policy optimisation: rewards compared within the samples of one prompt",
        ),
        ("on", "4 nodes of 8 GPUs: 32 GPUs"),
        (
            "parallel",
            "Megatron-Core, tensor parallel size 2, pipeline parallel size 2, sequence parallel, "
            "data parallel size 8 = 32 / 4",
        ),
        ("fp8-rollouts", "FP8 in generation only"),
        (".v2", "counts the changes of this recipe's convergence"),
    ]


def test_a_declared_exception_is_explained_with_its_hardware() -> None:
    read = name.parse("grpo-deepscaler-1.5b-8K")
    rows = dict(explain(read, vocabulary.load(), NameException("context", 1, 8, 3)))
    assert rows["on"] == "1 node of 8 GPUs: 8 GPUs (declared in the driver)"
    assert rows["8K"] == "sequences of 8,192 tokens, said in place of the allocation"


def test_mixtures_and_students() -> None:
    words = vocabulary.load()
    moe = dict(explain(name.parse("sft-qwen3-30ba3b-1n8g-ep8"), words))
    assert moe["trains"] == "Qwen3, 30 billion parameters, 3 billion active per token"
    student = dict(explain(name.parse("distillation-qwen3-32b-to-1.7b-base-1n8g-fsdp2tp1"), words))
    assert student["trains"] == (
        "Qwen3, a student of 1.7 billion parameters from a teacher of 32 billion parameters, "
        "base weights"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sft-llama3-8b-1n8g-tp3", "tp3 = 3 does not divide 8 GPUs"),
        ("sft-llama3-8b-1n1g-tp2pp2", "tp2 × pp2 = 4 does not divide 1 GPU"),
        ("sft-llama3-8b-2n8g-tp4pp2cp2", None),
        ("grpo-llama3-8b-1n8g-tp3-noncolocated", None),
        ("grpo-deepscaler-1.5b-8K", None),
    ],
)
def test_sizes_must_divide_the_allocation_of_the_name(text: str, message: str | None) -> None:
    assert uneven_split(name.parse(text)) == message
