"""Reinforcement with images: what the generator sees is what the trainer sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_vision import GEMMA, QWEN, RECIPE, SMOLVLM
from training_runs import curves, train, train_on_two_ranks

from evenkeel.recipes import config
from evenkeel.recipes.schema import Algorithm, Backend, Recipe
from evenkeel.training import models
from evenkeel.training.backends import interface
from evenkeel.training.backends.fsdp2 import Fsdp2Backend
from evenkeel.training.backends.interface import ModelOutput
from evenkeel.training.data.batches import BatchSource, MicroBatch, Sample
from evenkeel.training.data.prompts import open_prompts
from evenkeel.training.data.tokenizers import load_tokenizer
from evenkeel.training.distributed import World, joined
from evenkeel.training.generation.builtin import BuiltinEngine
from evenkeel.training.generation.interface import Completion, Request, Sampling

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

VLM_GRPO = ("--config", str(Path(__file__).with_name("tiny_vlm_grpo.yaml")))
STEPS = "grpo.steps_per_run=3"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 steps after a warm start, on one process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder, *VLM_GRPO, STEPS, algorithm=Algorithm.GRPO) == 0
    return folder


def test_generator_and_trainer_agree(whole: Path) -> None:
    metrics = curves(whole)
    for step in (1, 2, 3):
        assert metrics["train/token_mult_prob_error"][step] == pytest.approx(1.0, abs=1e-4)
        assert metrics["train/probs_ratio"][step] == pytest.approx(1.0, abs=1e-5)


def test_stopped_and_continued_is_bit_equal(whole: Path, tmp_path: Path) -> None:
    for _ in range(3):
        run = (*VLM_GRPO, "grpo.max_num_steps=3", "grpo.steps_per_run=1")
        assert train(tmp_path, *run, algorithm=Algorithm.GRPO) == 0
    stopped, unbroken = curves(tmp_path), curves(whole)
    for name in ("train/loss", "train/grad_norm", "train/reward"):
        assert stopped[name] == unbroken[name]


MEGATRON = "policy.backend=megatron"
TP2 = "policy.parallel.tensor_parallel_size=2"
LAYOUTS = {
    "dp2": ["policy.train_micro_batch_size=3"],
    "tp2": [TP2],
    "megatron, tp2 + sp": [MEGATRON, TP2, "policy.parallel.sequence_parallel=true"],
    "megatron, pp2": [
        MEGATRON,
        "policy.parallel.pipeline_parallel_size=2",
        "policy.train_micro_batch_size=4",
    ],
}


def test_layout_does_not_change_the_curve(
    whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folders = {name: tmp_path_factory.mktemp("layout") for name in LAYOUTS}
    runs = [(folders[name], [*VLM_GRPO, STEPS, *LAYOUTS[name]]) for name in LAYOUTS]
    assert train_on_two_ranks(runs, algorithm=Algorithm.GRPO) == [0] * len(runs)
    reference = curves(whole)
    for name, folder in folders.items():
        assert sorted(curves(folder)["train/loss"]) == [1, 2, 3], name
        for metric in ("train/loss", "train/grad_norm", "train/reward"):
            for step, value in curves(folder)[metric].items():
                expected = pytest.approx(reference[metric][step], rel=1e-3, abs=1e-5)
                assert value == expected, (name, metric, step)


@pytest.mark.parametrize(
    ("backend", "described"),
    [
        (Backend.FSDP2, None),
        (Backend.FSDP2, QWEN),
        (Backend.FSDP2, SMOLVLM),
        (Backend.FSDP2, GEMMA),
        (Backend.MEGATRON, None),
    ],
)
def test_decoding_with_images_is_the_forward_pass(
    backend: Backend, described: dict[str, Any] | None
) -> None:
    recipe = config.load(RECIPE).recipe
    recipe.data.dataset, recipe.policy.backend = "shapes", backend
    if described:
        recipe.policy.model_config = described
    prompts = open_prompts(recipe, load_tokenizer(recipe), "train")
    requests = [
        Request(prompt.token_ids, 5, seed=prompt.index, images=prompt.images)
        for prompt in (prompts[index] for index in range(4))
    ]
    assert len({len(request.prompt_ids) for request in requests}) > 1  # so that some are padded
    with joined(recipe) as world:
        model = model_of(recipe, world)
        # an image token has no image, and ends an answer
        answers = BuiltinEngine(model, {265}, 256).generate(requests, Sampling())
        samples = [sample(*pair) for pair in zip(requests, answers, strict=True)]
        source = BatchSource(
            samples,
            global_batch_size=4,
            micro_batch_size=4,
            dp_rank=0,
            dp_size=1,
            seed=0,
            shuffle=False,
            max_length=64,
            pad_id=256,
            pack=False,
        )
        (batch,) = source.global_batch(1)

        def read(output: ModelOutput, batch: MicroBatch) -> dict[str, torch.Tensor]:
            return {"log_probs": output.token_log_probs(batch.labels)}

        (found,) = model.read([batch], read)
    for row, answer in enumerate(answers):
        trained = batch.labels[row] != -100
        expected = torch.tensor(answer.log_probs)
        assert torch.allclose(found["log_probs"][row][trained], expected, atol=1e-4)


def model_of(recipe: Recipe, world: World) -> interface.Backend:
    described = models.load_config(recipe.policy)
    if recipe.policy.backend is Backend.FSDP2:
        return Fsdp2Backend(recipe, described, world)
    from evenkeel.training.backends.megatron.backend import MegatronBackend

    return MegatronBackend(recipe, described, world)


def sample(request: Request, answer: Completion) -> Sample:
    mask = [0] * len(request.prompt_ids) + [1] * len(answer.token_ids)
    return Sample(request.prompt_ids + answer.token_ids, mask, request.images)


def test_vllm_is_refused_with_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = (*VLM_GRPO, "policy.generation.backend=vllm")
    assert train(tmp_path, *run, algorithm=Algorithm.GRPO) == 2
    assert "vllm, which gets no images" in capsys.readouterr().err
