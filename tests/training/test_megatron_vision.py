"""LLaVA on megatron-core's multimodal model: transformers' function, the torch backend's curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_vision import RECIPE, VLM, few_images, micro_batch, write_some_with_images
from training_runs import curves, train, train_on_two_ranks

from evenkeel.errors import InputError
from evenkeel.recipes import config
from evenkeel.recipes.schema import Backend, Recipe
from evenkeel.training import models
from evenkeel.training.distributed import joined

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

MAX_DIFFERENCE = 2e-6
"""Of log probabilities in fp32; 0 was seen on one process."""
POST_NORM = {f"model.vision_tower.post_layernorm.{kind}" for kind in ("weight", "bias")}


def recipe_of(text: dict[str, Any], see: dict[str, Any], **keys: Any) -> Recipe:
    """Of the tiny LLaVA with these keys of its three configurations changed."""
    recipe = config.load(RECIPE).recipe
    recipe.policy.backend = Backend.MEGATRON
    recipe.data.dataset = "shapes"
    described = recipe.policy.model_config
    described["text_config"] |= text
    described["vision_config"] |= see
    described |= keys
    return recipe


ARCHITECTURES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}, {}),
    "last layer but one, class token kept": (
        {},
        {"num_hidden_layers": 3},
        {"vision_feature_layer": -2, "vision_feature_select_strategy": "full"},
    ),
    "untied, no bias in the projector, exact GELU": (
        {"tie_word_embeddings": False},
        {"hidden_act": "gelu"},
        {
            "tie_word_embeddings": False,
            "multimodal_projector_bias": False,
            "projector_hidden_act": "silu",
        },
    ),
    "around a qwen2": ({"model_type": "qwen2"}, {}, {}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_computes_what_transformers_computes_and_converts_back(name: str) -> None:
    from evenkeel.training.backends.megatron.backend import MegatronBackend

    text, see, keys = ARCHITECTURES[name]
    recipe = recipe_of(text, see, **keys)
    batch = micro_batch(recipe)
    assert len(batch.images["pixel_values"]) == 3
    described = models.load_config(recipe.policy)
    with joined(recipe, {}) as world:
        backend = MegatronBackend(recipe, described, world)
        found = backend.read([batch], lambda output, _: {"logs": output.log_probs()})[0]["logs"]
        back = dict(backend.whole_weights())
    whole = models.build(recipe, described).eval()
    with torch.no_grad():
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        wanted = whole(**inputs, **batch.images).logits.log_softmax(-1)
        blind = whole(**inputs).logits.log_softmax(-1)
    tokens = batch.attention_mask.bool()
    assert (found - wanted)[tokens].abs().max() < MAX_DIFFERENCE
    assert (blind - wanted)[tokens].abs().max() > 1e-2
    assert backend.initial_weights == models.mean_weight_size(whole)
    kept = whole.state_dict()
    if described.tie_word_embeddings:
        del kept["lm_head.weight"]
    assert all(torch.equal(kept[name], weight) for name, weight in back.items())
    # what the language model never sees
    unused = {name for name in kept if "vision_tower.encoder.layers.2." in name} | POST_NORM
    assert kept.keys() - back.keys() == unused


UNTRIED = "set it to clip_vision_model, or policy.backend=fsdp2"


@pytest.mark.parametrize(
    ("text", "see", "keys", "words"),
    [
        ({}, {}, {"vision_feature_layer": [-1, -2]}, "takes the output of one of the tower's 1"),
        ({}, {}, {"vision_feature_layer": -2}, "set it to a number from -1 to -1"),
        ({}, {"model_type": "siglip_vision_model"}, {}, UNTRIED),
        ({"model_type": "gemma"}, {}, {}, "of llama or mistral or qwen2 or qwen3"),
        ({}, {"attention_dropout": 0.1}, {}, "attention_dropout is 0.1"),
        ({}, {"image_size": 9}, {}, "image_size is 9, not a multiple of patch_size = 4"),
        ({}, {"hidden_act": "relu"}, {}, "has no activation 'relu'"),
        ({}, {"num_attention_heads": 1}, {}, "vision_config.num_attention_heads = 1"),
    ],
)
def test_what_it_would_train_otherwise_is_refused(
    text: dict[str, Any], see: dict[str, Any], keys: dict[str, Any], words: str
) -> None:
    from evenkeel.training.backends.megatron.vision_architecture import vision_architecture

    policy = recipe_of(text, see, **keys).policy
    policy.parallel.tensor_parallel_size = 2
    with pytest.raises(InputError) as refusal:
        vision_architecture(models.load_config(policy), policy, torch.device("cpu"))
    assert words in f"{refusal.value.message} {refusal.value.fix}"


MEGATRON = "policy.backend=megatron"
UNSAVED = "checkpointing.enabled=false"
STEPS = ("sft.max_num_steps=6", "sft.val_period=6")
TP2 = "policy.parallel.tensor_parallel_size=2"
SP = "policy.parallel.sequence_parallel=true"
PP2 = "policy.parallel.pipeline_parallel_size=2"
INTERLEAVED = "policy.parallel.virtual_pipeline_parallel_size=2"
RECOMPUTED = "policy.activation_checkpointing=true"
PACKED = "policy.sequence_packing.enabled=true"


def micro(size: int) -> str:
    return f"policy.train_micro_batch_size={size}"


def trainings(some: Path) -> dict[str, list[str]]:
    """``some``: a file in which one sample in four has an image."""
    return {
        "whole": [],
        "tower frozen": ["policy.vision.freeze_vision_tower=true"],
        "language frozen": ["++policy.vision.freeze_language_model=true"],
        "projector frozen": ["++policy.vision.freeze_projector=true"],
        "few images": few_images(some),
        "four layers": ["policy.model_config.text_config.num_hidden_layers=4"],
    }


LAYOUTS = {
    "dp2, uneven": ("whole", [micro(3)]),
    "dp2, few images": ("few images", [micro(1)]),
    "tp2": ("tower frozen", [TP2]),
    "tp2 + sp, recomputed": ("whole", [TP2, SP, RECOMPUTED]),
    "tp2 + sp, few images": ("few images", [TP2, SP]),
    "pp2": ("language frozen", [PP2, micro(2)]),
    "pp2, packed": ("projector frozen", [PP2, PACKED, micro(1)]),
    "pp2, interleaved": ("four layers", [PP2, INTERLEAVED, micro(2)]),
}
RESUMED = ("tp2 + sp, recomputed", "pp2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each training by the torch backend, and one by megatron-core, on one process; each layout,
    and two of them again in two starts, on two."""
    folder = tmp_path_factory.mktemp("vision")
    some = folder / "some.jsonl"
    write_some_with_images(some)
    changes = trainings(some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, overrides in changes.items():
            assert train(folder / "torch" / name, *VLM, *STEPS, UNSAVED, *overrides) == 0
        assert train(folder / "one process", *VLM, *STEPS, UNSAVED, MEGATRON) == 0
    runs = []
    for name, (training, layout) in LAYOUTS.items():
        overrides = [*VLM, *STEPS, MEGATRON, *changes[training], *layout]
        runs.append((folder / name, [*overrides, UNSAVED]))
        if name in RESUMED:
            runs += [(folder / "halves" / name, [*overrides, "sft.steps_per_run=3"])] * 2
    assert train_on_two_ranks(runs) == [0] * len(runs)
    return folder


@pytest.mark.parametrize("layout", ["one process", *LAYOUTS])
def test_layout_does_not_change_the_curve(folder: Path, layout: str) -> None:
    training = LAYOUTS[layout][0] if layout in LAYOUTS else "whole"
    wanted, found = curves(folder / "torch" / training), curves(folder / layout)
    assert len(set(found["train/loss"].values())) > 4
    for name in ("train/loss", "train/grad_norm", "train/global_valid_toks", "validation/loss"):
        assert found.get(name, {}) == pytest.approx(wanted.get(name, {}), rel=1e-5), name


@pytest.mark.parametrize("layout", RESUMED)
def test_stopped_and_continued_is_bit_equal(folder: Path, layout: str) -> None:
    unbroken, stopped = curves(folder / layout), curves(folder / "halves" / layout)
    assert sorted(stopped["train/loss"]) == list(range(1, 7))
    for name in ("train/loss", "train/grad_norm", "validation/loss", "validation/accuracy"):
        assert stopped[name] == unbroken[name]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("policy.parallel.context_parallel_size=2", "set policy.parallel.context_parallel_size=1"),
        ("policy.model_config.vision_feature_layer=-2", "set it to a number from -1 to -1"),
    ],
)
def test_what_megatron_cannot_train(
    override: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, *VLM, *STEPS, MEGATRON, override) == 2
    assert words in capsys.readouterr().err
