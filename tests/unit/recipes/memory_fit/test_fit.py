from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.recipes import config
from evenkeel.recipes.memory_fit.cards import CARDS, GIB, Card, card
from evenkeel.recipes.memory_fit.fit import Fit, Models, Verdict, fit, models_of
from evenkeel.recipes.memory_fit.mends import larger_card, mends
from evenkeel.recipes.memory_fit.refusals import check_trainable

CONFIGS = Path(__file__).parents[4] / "examples" / "configs"
H100 = CARDS["h100-80gb"]


def of(name: str, *overrides: str, on: Card = H100) -> tuple[Fit, Models]:
    (path,) = (CONFIGS / "recipes").rglob(f"{name}.yaml")
    recipe = config.load(path, overrides).recipe
    models = models_of(recipe, CONFIGS / "models")
    return fit(name, recipe, models, on), models


def check(name: str, *overrides: str) -> None:
    (path,) = (CONFIGS / "recipes").rglob(f"{name}.yaml")
    recipe = config.load(path, overrides).recipe
    check_trainable(recipe, models_of(recipe, CONFIGS / "models"))


def parts(found: Fit, phase: str, stage: int = 0) -> dict[str, float]:
    (one,) = (one for one in found.stages[stage].phases if one.name == phase)
    return one.parts


def test_states_of_eight_billion_parameters_over_eight_ranks() -> None:
    found, _ = of("sft-llama3.1-8b-1n8g-fsdp2tp1-long")
    update = parts(found, "update")
    billion = 8.030e9
    assert update["weights"] == pytest.approx(4 * billion / 8, rel=1e-3)
    assert update["optimizer"] == pytest.approx(8 * billion / 8, rel=1e-3)
    # 16 micro-batches add up whole
    assert parts(found, "train")["gradients"] == pytest.approx(4 * billion, rel=1e-3)


def test_recomputation_leaves_one_input_a_layer() -> None:
    name = "sft-llama3.1-8b-1n8g-fsdp2tp1-long"
    with_it, _ = of(name)
    without, _ = of(name, "policy.activation_checkpointing=false")
    inputs = 32 * 4096 * 4096 * 2
    assert parts(with_it, "train")["activations"] < 2.5 * inputs
    assert parts(without, "train")["activations"] > 12 * inputs


def test_earlier_stages_hold_more_micro_batches() -> None:
    found, _ = of("pretrain-llama3.1-70b-16n8g-megatrontp8pp4-actckpt")
    held = [parts(found, "train", stage)["activations"] for stage in range(4)]
    assert held == sorted(held, reverse=True)
    two, _ = of("pretrain-llama3.1-8b-4n8g-megatrontp2pp2")
    assert parts(two, "train", 0)["logits"] == 0
    # 12 bytes a logit of half the vocabulary
    assert parts(two, "train", 1)["logits"] == 4096 * 128256 / 2 * 12


def test_a_reference_is_held_where_it_is_charged() -> None:
    charged, _ = of("grpo-llama3.2-1b-instruct-1n8g-fsdp2tp1.v3")
    free, _ = of("grpo-qwen2.5-math-1.5b-instruct-1n8g-fsdp2tp1.v2")
    assert parts(charged, "train")["reference"] == parts(charged, "train")["weights"]
    assert "reference" not in parts(free, "train")


def test_the_teacher_is_known_by_its_name() -> None:
    found, models = of("distillation-qwen3-1.7b-1n8g-fsdp2tp2")
    assert models.teacher is not None
    assert models.teacher.text.num_layers == 36
    assert parts(found, "update")["teacher"] == pytest.approx(4 * 8.191e9 / 8, rel=1e-3)


def test_a_cache_grows_with_answers_and_is_shared_by_heads() -> None:
    name, tp2 = "grpo-qwen2.5-math-1.5b-instruct-1n8g-fsdp2tp1.v2", "policy.parallel"
    builtin = "policy.generation.backend=transformers"
    one, _ = of(name, builtin)
    two, _ = of(name, builtin, f"{tp2}.tensor_parallel_size=2")
    rows = 4 * 16
    per_token = 2 * 2 * 2 * 128
    # from the 1,024 tokens of a prompt on, memory grows to an eighth more than is needed
    cache = rows * per_token * (28 * 4227 + 3757 / 2)
    assert parts(one, "generate")["kv_cache"] == cache
    # twice the rows on half as many data-parallel ranks, half the heads
    assert parts(two, "generate")["kv_cache"] == cache


def test_an_engine_needs_its_share() -> None:
    found, _ = of(
        "grpo-qwen2.5-7b-instruct-4n8g-fsdp2tp4sp.v3",
        "policy.generation.tensor_parallel_size=1",
        on=CARDS["l4-24gb"],
    )
    assert not found.engine_fits
    assert found.verdict is Verdict.DOES_NOT_FIT


def test_verdicts() -> None:
    found, _ = of("sft-llama3.2-1b-1n8g-fsdp2tp1")
    for share, verdict in ((0.5, "fits"), (0.95, "tight"), (1.05, "does not fit")):
        assert replace(found, card=Card("own", int(found.peak / share))).verdict == verdict


def test_mends_make_it_fit_and_are_counted_as_the_command_line_would() -> None:
    name = "sft-llama3.1-8b-1n8g-fsdp2tp2sp"
    wrong, models = of(name, "sft.val_micro_batch_size=16")
    assert wrong.verdict is Verdict.DOES_NOT_FIT
    found = mends(wrong, models)
    assert found[0].changes[0][0] == "sft.val_micro_batch_size"
    for mend in found:
        assert mend.result.verdict is not Verdict.DOES_NOT_FIT
        again, _ = of(name, "sft.val_micro_batch_size=16", *mend.overrides)
        assert again.peak == mend.result.peak


def test_mends_work_together_where_one_is_not_enough() -> None:
    wrong, models = of(
        "sft-llama3.1-8b-1n8g-fsdp2tp2sp",
        "policy.train_micro_batch_size=8",
        "sft.val_micro_batch_size=16",
        "policy.parallel.sequence_parallel=false",
        on=card(None, 64),
    )
    (together,) = mends(wrong, models)
    assert len(together.changes) > 1
    assert together.result.verdict is not Verdict.DOES_NOT_FIT


ON_TORCH = (
    "policy.backend=fsdp2",
    "~policy.moe",
    "policy.parallel.tensor_parallel_size=1",
    "policy.parallel.pipeline_parallel_size=1",
    "policy.parallel.expert_parallel_size=1",
    "policy.parallel.expert_tensor_parallel_size=null",
    "policy.parallel.sequence_parallel=false",
)


def test_torch_shares_experts_where_it_splits_attention() -> None:
    name = "sft-qwen3-30ba3b-4n8g-megatrontp2pp2ep8"
    wrong, models = of(name, *ON_TORCH)
    mend, _ = mends(wrong, models)
    assert mend.overrides == [
        "policy.parallel.tensor_parallel_size=4",
        "policy.parallel.expert_parallel_size=4",
    ]
    again, _ = of(name, *ON_TORCH, *mend.overrides)
    assert again.peak == mend.result.peak
    for fewer in mend.overrides:
        with pytest.raises(InputError, match="that share attention's matrices share the experts"):
            check(name, *ON_TORCH, fewer)


def test_torch_does_not_split_latent_attention() -> None:
    wrong, models = of("sft-deepseek-v2-lite-2n8g-megatronep8", *ON_TORCH)
    changed = {key for mend in mends(wrong, models) for key, _ in mend.changes}
    assert changed == {"policy.activation_checkpointing", "cluster.num_nodes"}


SMALL = "sft-llama3.2-1b-1n8g-fsdp2tp1"
LLAVA = "vlm_sft-llava1.5-7b-1n8g-fsdp2tp1-actckpt"
MIXTURE = "sft-qwen3-30ba3b-4n8g-megatrontp2pp2ep8"
MEGATRON = "pretrain-llama3.1-8b-4n8g-megatrontp2pp2"


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (SMALL, ["context_parallel_size=2"], "context_parallel_size is 2, and the fsdp2 backend"),
        (SMALL, ["tensor_parallel_size=3", "cluster.gpus_per_node=6"], "num_attention_heads = 32"),
        (SMALL, ["tensor_parallel_size=16", "cluster.num_nodes=2"], "num_key_value_heads = 8"),
        (SMALL, ["tensor_parallel_size=2", "policy.torch_compile=true"], "torch_compile and"),
        (SMALL, ["tensor_parallel_size=2", "++policy.lora.rank=8"], "policy.lora and"),
        (SMALL, ["policy.precision=fp8"], "policy.precision is fp8, which this version"),
        (SMALL, ["pipeline_parallel_size=2", "policy.model_config.model_type=gemma"], "the stages"),
        (LLAVA, ["policy.backend=megatron", "context_parallel_size=2"], "rows with images out"),
        (LLAVA, ["policy.backend=megatron", "tensor_parallel_size=3"], "heads = 32"),
        (
            LLAVA,
            [
                "policy.backend=megatron",
                "tensor_parallel_size=2",
                "policy.model_config.vision_config.num_attention_heads=15",
            ],
            "vision_config.num_attention_heads = 15; megatron-core splits tower",
        ),
        (LLAVA, ["~policy.vision"], "llava is a vision-language model, and the recipe has no"),
        (MEGATRON, ["policy.lora.rank=8"], "policy.lora asks for low-rank updates"),
        (MEGATRON, ["++policy.model_config.attention_bias=true"], "has biases in its output"),
        (MEGATRON, ["expert_parallel_size=2"], "a llama model has no experts"),
        (
            MEGATRON,
            ["pipeline_parallel_size=1", "virtual_pipeline_parallel_size=2"],
            "virtual_pipeline_parallel_size is 2 without a pipeline",
        ),
        (MIXTURE, ["sequence_parallel=false"], "only if tokens are split, too"),
        (
            MIXTURE,
            ["policy.model_config.num_experts=12"],
            "expert_parallel_size is 8, which does not divide the model's 12 experts",
        ),
    ],
)
def test_what_the_trainers_refuse_is_refused_here(
    name: str, overrides: list[str], message: str
) -> None:
    ranks = [] if any("cluster" in one for one in overrides) else ["cluster.gpus_per_node=24"]
    words = [one if "." in one else f"policy.parallel.{one}" for one in overrides]
    with pytest.raises(InputError) as refused:
        check(name, *ranks, *words)
    assert message in refused.value.message
    assert refused.value.fix


@pytest.mark.parametrize(
    ("option", "memory"), [("policy.torch_compile=true", 8), ("++policy.lora.rank=8", 4)]
)
def test_no_mend_is_one_that_the_trainers_refuse(option: str, memory: int) -> None:
    wrong, models = of(SMALL, option, on=card(None, memory))
    assert wrong.verdict is Verdict.DOES_NOT_FIT
    changed = {key for mend in mends(wrong, models) for key, _ in mend.changes}
    assert "policy.parallel.tensor_parallel_size" not in changed
    plain, models = of(SMALL, on=card(None, 8))
    changed = {key for mend in mends(plain, models) for key, _ in mend.changes}
    assert "policy.parallel.tensor_parallel_size" in changed


def test_nothing_helps_a_small_card() -> None:
    wrong, models = of("sft-llama3.1-70b-8n8g-tp4pp2-long", on=Card("tiny", 2 * GIB))
    assert mends(wrong, models) == []
    larger = larger_card(wrong, models)
    assert larger is not None
    assert larger.card.memory > H100.memory / 2


def test_cards() -> None:
    assert card(None, None).name == "h100-80gb"
    assert card(None, 48).memory == 48 * GIB
    assert card("h100-80gb", 48) == Card("h100-80gb with 48 GiB", 48 * GIB, part_of="h100-80gb")
    for memory in (None, 48):
        with pytest.raises(InputError, match="did you mean 'h100-80gb'"):
            card("h100-80", memory)
    with pytest.raises(InputError, match=r"--memory is 96, and --gpu h100-80gb has 79\.6 GiB"):
        card("h100-80gb", 96)
    with pytest.raises(InputError, match="--memory is -1"):
        card(None, -1)
