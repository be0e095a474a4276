"""Low-rank updates: what is trained, what is saved, and what they add up to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from training_runs import TINY, curves, losses, train, train_on_two_ranks

from evenkeel.recipes import config
from evenkeel.training import models
from evenkeel.training.backends.fsdp2 import Fsdp2Backend
from evenkeel.training.backends.lora import UPDATES
from evenkeel.training.distributed import joined

LORA = (
    "++policy.lora.rank=4",
    "++policy.lora.alpha=8",
    "++policy.lora.target_modules=[q_proj,v_proj,down_proj,lm_head]",
    "policy.model_config.tie_word_embeddings=false",
    "policy.optimizer.lr=2e-2",
)
STEPS = "sft.max_num_steps=30"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 steps at once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder, STEPS, *LORA) == 0
    return folder


def test_it_learns(whole: Path) -> None:
    loss = losses(whole)
    assert loss[30] < loss[1] - 0.5


def test_stopped_and_continued_is_bit_equal(whole: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert train(tmp_path, STEPS, "sft.steps_per_run=18", *LORA) == 0
    assert losses(tmp_path) == losses(whole)
    assert curves(tmp_path)["validation/loss"] == curves(whole)["validation/loss"]


def test_two_ranks_give_the_same_curve(whole: Path, tmp_path: Path) -> None:
    overrides = [STEPS, *LORA, "policy.train_micro_batch_size=4", "sft.steps_per_run=10"]
    assert train_on_two_ranks([(tmp_path, overrides)]) == [0]
    for step, loss in losses(tmp_path).items():
        assert loss == pytest.approx(losses(whole)[step], rel=1e-4)


def test_only_updates_are_trained_saved_and_merged(whole: Path) -> None:
    recipe = config.load(TINY, list(LORA)).recipe
    with joined(recipe) as world:
        model_config = models.load_config(recipe.policy)
        backend = Fsdp2Backend(recipe, model_config, world)
        start = dict(backend.whole_weights())
        latest = max((whole / "ckpts").glob("step_*"))
        backend.load(latest / "model")
        trained = dict(backend.whole_weights())
        plain = models.build(recipe, model_config)
        names = [name for name, _ in plain.named_parameters()]
        assert sorted(trained) == sorted(names)
        changed = {name for name in names if not torch.equal(trained[name], start[name])}
        assert {name.split(".")[-2] for name in changed} == {
            "q_proj",
            "v_proj",
            "down_proj",
            "lm_head",
        }

        plain.load_state_dict(trained)
        ids = torch.arange(12)[None]
        backend.model.train(False)
        with torch.no_grad():
            assert torch.allclose(
                plain(input_ids=ids).logits, backend.model(input_ids=ids).logits, atol=1e-5
            )
    saved = FileSystemReader(latest / "model").read_metadata().state_dict_metadata
    weights = [name for name in saved if name.startswith("model.")]
    assert len(weights) == 2 * (3 * 2 + 1)  # A and B of three layers in two blocks, and the head
    assert all(name.endswith(UPDATES) for name in weights)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("++policy.lora.target_modules=[q_prj]", "did you mean"),
        ("policy.model_config.tie_word_embeddings=true", "the embedding's, too"),
    ],
)
def test_what_cannot_be_had_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert train(tmp_path, *LORA, override) == 2
    assert message in capsys.readouterr().err
