"""Every algorithm on the megatron backend follows the torch backend's curve, with its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import curves, train, train_all_on_two_ranks

from evenkeel.recipes.schema import Algorithm

# the library warns of what its own parts leave out
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")

MEGATRON = "policy.backend=megatron"
UNSAVED = "checkpointing.enabled=false"
TP2 = "policy.parallel.tensor_parallel_size=2"
SP = "policy.parallel.sequence_parallel=true"
PP2 = "policy.parallel.pipeline_parallel_size=2"
CP2 = "policy.parallel.context_parallel_size=2"

TRAININGS: dict[str, tuple[Algorithm, list[str]]] = {
    # answers that score apart from each other, and a ratio that leaves 1 within a step
    "grpo": (
        Algorithm.GRPO,
        [
            "data.dataset=letters",
            "policy.warm_start.num_steps=20",
            "policy.warm_start.global_batch_size=32",
            "policy.optimizer.lr=1e-3",
            "grpo.num_inner_epochs=2",
        ],
    ),
    # "e" as padding: transformers trains no embedding of it where it is given
    "pretrain": (Algorithm.PRETRAIN, ["++policy.model_config.pad_token_id=101"]),
    "dpo": (Algorithm.DPO, []),
    "distillation": (Algorithm.DISTILLATION, []),
    "distillation on answers": (
        Algorithm.DISTILLATION,
        ["distillation.on_policy=true", "++policy.generation.max_new_tokens=6"],
    ),
}
LAYOUTS: dict[str, tuple[str, list[str]]] = {
    "grpo, tp2": ("grpo", [TP2]),
    "grpo, tp2 with sequence parallelism": ("grpo", [TP2, SP]),
    "grpo, pp2": ("grpo", [PP2, "policy.train_micro_batch_size=4"]),
    "grpo, cp2": ("grpo", [CP2]),
    "pretrain, tp2": ("pretrain", [TP2]),
    "pretrain, tp2 with sequence parallelism": ("pretrain", [TP2, SP]),
    "dpo, pp2": ("dpo", [PP2, "policy.train_micro_batch_size=4"]),
    "distillation, pp2": ("distillation", [PP2, "policy.train_micro_batch_size=4"]),
    "distillation on answers, tp2": ("distillation on answers", [TP2]),
}
RESUMED = "grpo, tp2"


@pytest.fixture(scope="module")
def by_torch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each training by the torch backend on one process."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, (algorithm, overrides) in TRAININGS.items():
            folders[name] = tmp_path_factory.mktemp("torch")
            assert train(folders[name], UNSAVED, *overrides, algorithm=algorithm) == 0
    return folders


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each layout; and one training again, in two starts."""
    folders = {name: tmp_path_factory.mktemp("layout") for name in (*LAYOUTS, "resumed")}
    runs = []
    for name, (training, layout) in LAYOUTS.items():
        algorithm, overrides = TRAININGS[training]
        layout = [MEGATRON, *overrides, *layout]
        runs.append((algorithm, folders[name], [UNSAVED, *layout]))
        if name == RESUMED:
            halves = [*layout, f"{algorithm.value}.steps_per_run=2"]
            runs += [(algorithm, folders["resumed"], halves)] * 2
    assert train_all_on_two_ranks(runs) == [0] * len(runs)
    return folders


MAX_DIFFERENCE = 1e-5
"""Of what is logged by each step; other orders of the same sums in fp32."""
LOGGED = (
    "train/loss",
    "train/grad_norm",
    "train/reward",
    "train/kl_penalty",
    "train/mean_gen_tokens_per_sample",
    "train/preference_loss",
    "validation/loss",
    "validation/accuracy",
    "validation/reward",
    "validation/bits_per_byte",
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_follows_the_torch_backend(
    by_torch: dict[str, Path], on_two_ranks: dict[str, Path], layout: str
) -> None:
    wanted, found = curves(by_torch[LAYOUTS[layout][0]]), curves(on_two_ranks[layout])
    assert set(found) == set(wanted)
    for name in LOGGED:
        assert found.get(name, {}) == pytest.approx(wanted.get(name, {}), abs=MAX_DIFFERENCE), name


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("grpo")])
def test_answers_are_sampled_from_the_policy_that_is_trained(
    on_two_ranks: dict[str, Path], layout: str
) -> None:
    found = curves(on_two_ranks[layout])
    assert len(set(found["train/reward"].values())) > 1
    for step in range(1, 5):
        assert found["train/token_mult_prob_error"][step] == pytest.approx(1, abs=1e-5)
        assert found["train/gen_kl_error"][step] == pytest.approx(0, abs=1e-7)


def test_stopped_and_continued_on_two_ranks_is_bit_equal(on_two_ranks: dict[str, Path]) -> None:
    stopped, unbroken = curves(on_two_ranks["resumed"]), curves(on_two_ranks[RESUMED])
    for name in ("train/loss", "train/grad_norm", "train/reward", "train/kl_penalty"):
        assert stopped[name] == unbroken[name], name
    assert stopped["validation/reward"][4] == unbroken["validation/reward"][4]


def test_the_ratio_is_1_at_a_steps_first_update(
    on_two_ranks: dict[str, Path], tmp_path: Path
) -> None:
    algorithm, overrides = TRAININGS["grpo"]
    once = [UNSAVED, "grpo.max_num_steps=1", "grpo.num_inner_epochs=1"]
    assert train(tmp_path, MEGATRON, *overrides, *once, algorithm=algorithm) == 0
    assert curves(tmp_path)["train/probs_ratio"][1] == pytest.approx(1, abs=1e-6)
    # the mean of a first and a second update on the same answers
    assert abs(curves(on_two_ranks[RESUMED])["train/probs_ratio"][1] - 1) > 1e-5
