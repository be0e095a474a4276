"""Distillation: it approaches the teacher, continues bit-equal, also on the student's answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import curves, losses, train

from evenkeel.recipes.schema import Algorithm

DISTILLATION = Algorithm.DISTILLATION
STEPS = "distillation.max_num_steps=20"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps at once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(folder, STEPS, algorithm=DISTILLATION) == 0
    return folder


def test_the_student_approaches_the_teacher(whole: Path) -> None:
    loss = losses(whole)
    assert loss[20] < loss[1] / 4
    assert all(value >= 0 for value in loss.values())
    assert curves(whole)["validation/loss"][20] < loss[1] / 4


def test_stopped_and_continued_is_bit_equal(whole: Path, tmp_path: Path) -> None:
    for _ in range(2):
        status = train(tmp_path, STEPS, "distillation.steps_per_run=12", algorithm=DISTILLATION)
        assert status == 0
    assert losses(tmp_path) == losses(whole)
    assert curves(tmp_path)["validation/loss"] == curves(whole)["validation/loss"]


def test_a_teacher_teaches_itself_nothing(tmp_path: Path) -> None:
    same = (
        "++policy.warm_start.num_steps=20",
        "policy.warm_start.lr=5e-3",
        "policy.warm_start.global_batch_size=8",
        "distillation.max_num_steps=1",
    )
    for kind in ("forward", "reverse", "mixed"):
        folder = tmp_path / kind
        status = train(folder, *same, f"distillation.kl_type={kind}", algorithm=DISTILLATION)
        assert status == 0
        assert losses(folder)[1] == pytest.approx(0, abs=1e-6)


def test_on_the_students_own_answers(tmp_path: Path) -> None:
    overrides = ("distillation.on_policy=true", "++policy.generation.max_new_tokens=6")
    more = ("distillation.kl_type=reverse", "distillation.num_top_logits=32")
    run = ("distillation.max_num_steps=4", *overrides, *more)
    for _ in range(2):
        steps = "distillation.steps_per_run=2"
        assert train(tmp_path / "two", *run, steps, algorithm=DISTILLATION) == 0
    assert train(tmp_path / "one", *run, algorithm=DISTILLATION) == 0
    loss = losses(tmp_path / "one")
    assert loss[4] < loss[1]
    assert losses(tmp_path / "two") == loss


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distillation.teacher.warm_start=null", "random weights"),
        ("distillation.teacher.model_config={}", "names no teacher"),
        ("distillation.teacher.model_config={model_type: gpt2, vocab_size: 288}", "one of 288"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert train(tmp_path, override, algorithm=DISTILLATION) == 2
    assert message in capsys.readouterr().err
