"""Vision-language models: what must not change the curve, and transformers' own logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import curves, losses, train, train_on_two_ranks

from evenkeel.recipes import config
from evenkeel.training import models, vision_model
from evenkeel.training.backends.fsdp2 import Fsdp2Backend
from evenkeel.training.backends.interface import ModelOutput
from evenkeel.training.data.batches import BatchSource, MicroBatch, open_dataset
from evenkeel.training.data.tokenizers import load_tokenizer
from evenkeel.training.distributed import joined

RECIPE = Path(__file__).with_name("tiny_vlm.yaml")
VLM = ("--config", str(RECIPE))
STEPS = "sft.max_num_steps=20"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps at once on one process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder, *VLM, STEPS) == 0
    return folder


def test_it_learns(whole: Path) -> None:
    loss = losses(whole)
    assert sorted(loss) == list(range(1, 21))
    assert loss[1] > 5.0
    assert loss[20] < 3.0
    assert curves(whole)["validation/accuracy"].keys() == {20}


def test_stopped_and_continued_is_bit_equal(whole: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert train(tmp_path, *VLM, STEPS, "sft.steps_per_run=10") == 0
    stopped, unbroken = curves(tmp_path), curves(whole)
    for name in ("train/loss", "train/grad_norm"):
        assert stopped[name] == unbroken[name]
    assert stopped["validation/loss"][20] == unbroken["validation/loss"][20]


@pytest.mark.parametrize(
    "overrides",
    [
        ("policy.train_micro_batch_size=3",),
        ("policy.sequence_packing.enabled=true", "policy.activation_checkpointing=true"),
        (
            "policy.dynamic_batching.enabled=true",
            "policy.dynamic_batching.train_micro_batch_tokens=70",
        ),
    ],
)
def test_what_does_not_change_the_curve(
    whole: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    assert train(tmp_path, *VLM, STEPS, "sft.steps_per_run=10", *overrides) == 0
    reference = losses(whole)
    for step, loss in losses(tmp_path).items():
        assert loss == pytest.approx(reference[step], abs=2e-5)


LAYOUTS = {
    "dp2": ["policy.train_micro_batch_size=2"],
    "dp2, uneven": ["policy.train_micro_batch_size=3"],
    "tp2": ["policy.parallel.tensor_parallel_size=2"],
    "tp2 with sequence parallelism": [
        "policy.parallel.tensor_parallel_size=2",
        "policy.parallel.sequence_parallel=true",
        "policy.activation_checkpointing=true",
    ],
}
FROZEN = ["policy.vision.freeze_vision_tower=true", "sft.steps_per_run=3"]


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """10 steps on each layout, and 3 with the tower frozen and with images in few samples."""
    some = tmp_path_factory.mktemp("data") / "some.jsonl"
    write_some_with_images(some)
    plans = {name: ["sft.steps_per_run=10", *overrides] for name, overrides in LAYOUTS.items()}
    plans["frozen"] = FROZEN
    plans["few images"] = [*few_images(some), "policy.train_micro_batch_size=1"]
    folders = {name: tmp_path_factory.mktemp("layout") for name in plans}
    folders["few images on one rank"] = tmp_path_factory.mktemp("one")
    runs = [(folders[name], [*VLM, STEPS, *overrides]) for name, overrides in plans.items()]
    assert train_on_two_ranks(runs) == [0] * len(runs)
    assert train(folders["few images on one rank"], *VLM, STEPS, *few_images(some)) == 0
    return folders


def write_some_with_images(path: Path) -> None:
    """One sample in four has an image."""
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(image).save(path.with_name("noise.png"))
    lines: list[dict[str, Any]] = []
    for number in range(24):
        line: dict[str, Any] = {"prompt": f"number {number}?", "response": str(number)}
        lines.append({**line, "image": "noise.png"} if number % 4 == 0 else line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def few_images(path: Path) -> list[str]:
    data = [f"data.{name}={path}" for name in ("train_path", "val_path")]
    return ["data.dataset=jsonl", *data, "data.num_val_samples=8", "sft.steps_per_run=5"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_does_not_change_the_curve(
    whole: Path, on_two_ranks: dict[str, Path], layout: str
) -> None:
    reference, found = curves(whole), curves(on_two_ranks[layout])
    for name in ("train/loss", "train/grad_norm", "train/global_valid_toks"):
        assert sorted(found[name]) == list(range(1, 11))
        for step, value in found[name].items():
            assert value == pytest.approx(reference[name][step], rel=1e-4), (name, step)


def test_a_rank_without_images_keeps_in_step(on_two_ranks: dict[str, Path]) -> None:
    one, two = (losses(on_two_ranks[name]) for name in ("few images on one rank", "few images"))
    assert sorted(two) == sorted(one) == list(range(1, 6))
    for step, loss in two.items():
        assert loss == pytest.approx(one[step], rel=1e-4)


def test_a_frozen_tower_keeps_its_weights(
    whole: Path, on_two_ranks: dict[str, Path], tmp_path: Path
) -> None:
    assert train(tmp_path, *VLM, STEPS, *FROZEN) == 0
    assert losses(tmp_path)[1] == losses(whole)[1]
    assert losses(tmp_path)[3] != losses(whole)[3]
    for step, loss in losses(on_two_ranks["frozen"]).items():
        assert loss == pytest.approx(losses(tmp_path)[step], rel=1e-4)


def micro_batch(recipe: Any, count: int = 3) -> MicroBatch:
    samples = open_dataset(recipe, load_tokenizer(recipe), "train")
    source = BatchSource(
        samples,
        global_batch_size=count,
        micro_batch_size=count,
        dp_rank=0,
        dp_size=1,
        seed=0,
        shuffle=True,
        max_length=recipe.policy.max_total_sequence_length,
        pad_id=256,
        pack=False,
    )
    (batch,) = source.global_batch(1)
    return batch


QWEN = {
    "model_type": "qwen2_5_vl",
    "image_token_id": 265,
    "text_config": {
        "model_type": "qwen2_5_vl_text",
        "vocab_size": 272,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    },
    "vision_config": {
        "model_type": "qwen2_5_vl",
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    },
}
TEXT = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
SEES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "patch_size": 4,
    "image_size": 16,
}
SMOLVLM = {
    "model_type": "smolvlm",
    "image_token_id": 265,
    "scale_factor": 2,
    "text_config": {"model_type": "llama", "pad_token_id": 256, **TEXT},
    "vision_config": {"model_type": "smolvlm_vision", **SEES},
}
GEMMA = {
    "model_type": "gemma3",
    "image_token_index": 265,
    "mm_tokens_per_image": 4,
    "text_config": {"model_type": "gemma3_text", **TEXT},
    "vision_config": {"model_type": "siglip_vision_model", **SEES},
}


@pytest.mark.parametrize("described", [None, QWEN, SMOLVLM, GEMMA])
def test_logits_are_those_of_transformers(described: dict[str, Any] | None) -> None:
    recipe = config.load(RECIPE).recipe
    recipe.data.dataset = "shapes"
    if described:
        recipe.policy.model_config = described
    batch = micro_batch(recipe)
    architecture = models.load_config(recipe.policy)
    vision_model.check_recipe(recipe, architecture)
    with joined(recipe) as world:
        backend = Fsdp2Backend(recipe, architecture, world)

        def logits(output: ModelOutput, _: MicroBatch) -> dict[str, torch.Tensor]:
            return {"logits": output.logits}

        (found,) = backend.read([batch], logits)
    whole = models.build(recipe, architecture).eval()
    is_image = (batch.input_ids == 265).long()
    pixels = dict(batch.images)
    if described is SMOLVLM:  # as (rows, images of a row, …)
        pixels["pixel_values"] = pixels["pixel_values"][:, None]
    if described is QWEN:
        pixels["mm_token_type_ids"] = is_image
    if described is GEMMA:
        pixels["token_type_ids"] = is_image
    with torch.no_grad():
        expected = whole(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, **pixels
        ).logits
        blind = whole(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    tokens = batch.attention_mask.bool()
    assert torch.allclose(found["logits"][tokens], expected[tokens], atol=1e-5)
    assert not torch.allclose(found["logits"][tokens], blind[tokens], atol=1e-2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~policy.vision", "is a vision-language model, and the recipe has no policy.vision"),
        ("policy.model_config.image_token_index=264", "the tokenizer's <|image|> is 265"),
        ("policy.max_total_sequence_length=6", "image tokens lie beyond"),
        ("++policy.vision.max_pixels=100", "max_pixels does not apply"),
        ("data.dataset=arithmetic", None),
    ],
)
def test_what_does_not_fit(
    override: str, message: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (STEPS, "sft.steps_per_run=1", "policy.train_global_batch_size=2", override)
    assert train(tmp_path, *VLM, *run) == (2 if message else 0)
    assert (message or "") in capsys.readouterr().err


def test_everything_frozen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ("vision_tower", "projector", "language_model")
    frozen = [f"policy.vision.freeze_{part}=true" for part in parts]
    assert train(tmp_path, *VLM, *[f"++{override}" for override in frozen]) == 2
    assert "nothing is trained" in capsys.readouterr().err
