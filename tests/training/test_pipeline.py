"""Pipeline stages on the torch backend: the curve and the checkpoints of one model."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import curves, train, train_all_on_ranks

from evenkeel.recipes.schema import Algorithm

LENGTH = ("sft.max_num_steps=10", "sft.val_period=5")
PART = "sft.steps_per_run=5"
PP2 = "policy.parallel.pipeline_parallel_size=2"
UNTIED = "policy.model_config.tie_word_embeddings=false"
COMPARED = (
    "train/loss",
    "train/grad_norm",
    "train/global_valid_toks",
    "validation/loss",
    "validation/accuracy",
)


def micro(size: int) -> str:
    return f"policy.train_micro_batch_size={size}"


TWO_RANKS = {
    "pp2": (PP2, micro(2)),
    "pp2, untied": (PP2, micro(3), UNTIED),
    "pp2, packed": (PP2, micro(1), "policy.sequence_packing.enabled=true"),
    "pp2, one micro-batch, recomputed, logits in chunks": (
        PP2,
        micro(8),
        "policy.activation_checkpointing=true",
        "policy.logits_chunk_size=16",
    ),
}
FOUR_RANKS = {
    "pp2 x dp2": (PP2, micro(2)),
    "pp2 x tp2": (PP2, micro(2), "policy.parallel.tensor_parallel_size=2"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """By whether weights are untied: the run on one process."""
    folders = {untied: tmp_path_factory.mktemp("whole") for untied in (False, True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for untied, folder in folders.items():
            assert train(folder, *LENGTH, *([UNTIED] if untied else [])) == 0
    return folders


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every layout at once, and runs that stop half-way and continue."""
    names = (*TWO_RANKS, "pp2 in halves", "pp2, then dp2", "dp2, then pp2", "pp2, then one")
    folders = {name: tmp_path_factory.mktemp("stages") for name in names}
    runs = [(folders[name], overrides) for name, overrides in TWO_RANKS.items()]
    runs += [(folders["pp2 in halves"], (PP2, micro(2), PART))] * 2
    runs += [(folders["pp2, then dp2"], (*layout, PART)) for layout in ((PP2, micro(2)), ())]
    runs += [(folders["dp2, then pp2"], (*layout, PART)) for layout in ((), (PP2, micro(2)))]
    runs += [(folders["pp2, then one"], (PP2, micro(2), PART))]
    jobs = [(Algorithm.SFT, folder, [*LENGTH, *overrides]) for folder, overrides in runs]
    assert train_all_on_ranks(2, jobs) == [0] * len(jobs)
    return folders


@pytest.fixture(scope="module")
def on_four_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("stages") for name in FOUR_RANKS}
    jobs = [
        (Algorithm.SFT, folders[name], [*LENGTH, *overrides])
        for name, overrides in FOUR_RANKS.items()
    ]
    assert train_all_on_ranks(4, jobs) == [0] * len(jobs)
    return folders


def assert_same_curve(found: Path, reference: Path) -> None:
    mine, wanted = curves(found), curves(reference)
    for name in COMPARED:
        assert sorted(mine[name]) == sorted(wanted[name])
        for step, value in mine[name].items():
            assert value == pytest.approx(wanted[name][step], rel=1e-6), (name, step)


@pytest.mark.parametrize("layout", TWO_RANKS)
def test_stages_do_not_change_the_curve(
    whole: dict[bool, Path], on_two_ranks: dict[str, Path], layout: str
) -> None:
    assert_same_curve(on_two_ranks[layout], whole["untied" in layout])


@pytest.mark.parametrize("layout", FOUR_RANKS)
def test_stages_go_with_other_parallelism(
    whole: dict[bool, Path], on_four_ranks: dict[str, Path], layout: str
) -> None:
    assert_same_curve(on_four_ranks[layout], whole[False])


def test_a_continued_run_is_bit_equal(on_two_ranks: dict[str, Path]) -> None:
    unbroken, halves = curves(on_two_ranks["pp2"]), curves(on_two_ranks["pp2 in halves"])
    assert {name: halves[name] for name in COMPARED} == {name: unbroken[name] for name in COMPARED}


@pytest.mark.parametrize("change", ["pp2, then dp2", "dp2, then pp2"])
def test_a_checkpoint_continues_in_another_layout(
    whole: dict[bool, Path], on_two_ranks: dict[str, Path], change: str
) -> None:
    assert_same_curve(on_two_ranks[change], whole[False])


def test_a_checkpoint_of_stages_continues_on_one_process(
    whole: dict[bool, Path], on_two_ranks: dict[str, Path]
) -> None:
    assert train(on_two_ranks["pp2, then one"], *LENGTH) == 0
    assert_same_curve(on_two_ranks["pp2, then one"], whole[False])
