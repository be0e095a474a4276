"""Experts shared out over tensor-parallel ranks of the torch backend: curve and checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import curves, train, train_all_on_ranks

from evenkeel.recipes.schema import Algorithm

LENGTH = ("sft.max_num_steps=10", "sft.val_period=5")
PART = "sft.steps_per_run=5"
MIXTURE = (
    "policy.model_config.model_type=mixtral",
    "++policy.model_config.num_local_experts=4",
    "++policy.model_config.num_experts_per_tok=2",
    "++policy.model_config.sliding_window=null",
)
SIX = "policy.model_config.num_local_experts=6"
EP2 = ("policy.parallel.tensor_parallel_size=2", "policy.parallel.expert_parallel_size=2")
SP = "policy.parallel.sequence_parallel=true"
RECOMPUTED = "policy.activation_checkpointing=true"
PACKED = "policy.sequence_packing.enabled=true"
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
    "ep2": (*EP2,),
    "ep2, micro-batches": (*EP2, micro(3), "policy.logits_chunk_size=16"),
    "ep2 + sp, recomputed": (*EP2, SP, RECOMPUTED),
    "ep2, packed": (*EP2, PACKED, micro(2)),
}
FOUR_RANKS = {
    "dp2 x ep2": (*EP2, micro(2)),
    "dp2 x ep2 + sp, recomputed": (*EP2, SP, RECOMPUTED, micro(4)),
    "dp2 x ep2, three experts a rank": (*EP2, micro(4), SIX),
}
REINFORCED = ("grpo.max_num_steps=2",)
EP2_IN_BF16 = (*EP2, micro(4), "policy.precision=bfloat16")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of experts: the run on one process."""
    folders = {count: tmp_path_factory.mktemp("whole") for count in (4, 6)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for count, folder in folders.items():
            assert train(folder, *LENGTH, *MIXTURE, *([SIX] if count == 6 else [])) == 0
    return folders


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every layout at once, and runs that stop half-way and continue."""
    names = (*TWO_RANKS, "ep2 in halves", "ep2, then dp2", "dp2, then ep2", "ep2, then one")
    runs = list(TWO_RANKS.items())
    runs += [("ep2 in halves", (*EP2, PART))] * 2
    runs += [("ep2, then dp2", (*layout, PART)) for layout in (EP2, ())]
    runs += [("dp2, then ep2", (*layout, PART)) for layout in ((), EP2)]
    runs += [("ep2, then one", (*EP2, PART))]
    return trained(2, names, runs, tmp_path_factory)


@pytest.fixture(scope="module")
def on_four_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = (*FOUR_RANKS, "dp2 x ep2 in halves", "dp2 x ep2, then one", "bf16", "bf16 in halves")
    runs = list(FOUR_RANKS.items())
    runs += [("dp2 x ep2 in halves", (*EP2, micro(2), PART))] * 2
    runs += [("dp2 x ep2, then one", (*EP2, micro(4), SIX, PART))]
    runs += [("bf16", EP2_IN_BF16), *[("bf16 in halves", (*EP2_IN_BF16, PART))] * 2]
    return trained(4, names, runs, tmp_path_factory)


@pytest.fixture(scope="module")
def reinforced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """On one process, and on two groups of ranks that share the experts."""
    one, shared = (tmp_path_factory.mktemp("reinforced") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert train(one, *REINFORCED, *MIXTURE, algorithm=Algorithm.GRPO) == 0
    overrides = [*REINFORCED, *MIXTURE, *EP2, micro(4)]
    assert train_all_on_ranks(4, [(Algorithm.GRPO, shared, overrides)]) == [0]
    return one, shared


def trained(
    num_ranks: int,
    names: tuple[str, ...],
    runs: list[tuple[str, tuple[str, ...]]],
    factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The folders of all runs; those of one name continue each other."""
    folders = {name: factory.mktemp("experts") for name in names}
    jobs = [
        (Algorithm.SFT, folders[name], [*LENGTH, *MIXTURE, *overrides]) for name, overrides in runs
    ]
    assert train_all_on_ranks(num_ranks, jobs) == [0] * len(jobs)
    return folders


def assert_same_curve(found: Path, reference: Path) -> None:
    mine, wanted = curves(found), curves(reference)
    for name in COMPARED:
        assert sorted(mine[name]) == sorted(wanted[name])
        for step, value in mine[name].items():
            assert value == pytest.approx(wanted[name][step], rel=1e-5), (name, step)


def assert_equal(found: Path, reference: Path) -> None:
    mine, wanted = curves(found), curves(reference)
    assert {name: mine[name] for name in COMPARED} == {name: wanted[name] for name in COMPARED}


@pytest.mark.parametrize("layout", TWO_RANKS)
def test_shared_experts_do_not_change_the_curve(
    whole: dict[int, Path], on_two_ranks: dict[str, Path], layout: str
) -> None:
    assert_same_curve(on_two_ranks[layout], whole[4])


@pytest.mark.parametrize("layout", FOUR_RANKS)
def test_they_go_with_data_parallelism(
    whole: dict[int, Path], on_four_ranks: dict[str, Path], layout: str
) -> None:
    assert_same_curve(on_four_ranks[layout], whole[6 if "three" in layout else 4])


def test_a_continued_run_is_bit_equal(on_two_ranks: dict[str, Path]) -> None:
    assert_equal(on_two_ranks["ep2 in halves"], on_two_ranks["ep2"])


@pytest.mark.parametrize("layout", ["dp2 x ep2", "bf16"])
def test_a_continued_run_of_four_ranks_is_bit_equal(
    on_four_ranks: dict[str, Path], layout: str
) -> None:
    assert_equal(on_four_ranks[f"{layout} in halves"], on_four_ranks[layout])


def test_bf16_stays_near_fp32(whole: dict[int, Path], on_four_ranks: dict[str, Path]) -> None:
    found, wanted = (curves(folder)["train/loss"] for folder in (on_four_ranks["bf16"], whole[4]))
    assert found[10] == pytest.approx(wanted[10], rel=0.05)
    assert found[10] != wanted[10]


@pytest.mark.parametrize("change", ["ep2, then dp2", "dp2, then ep2"])
def test_a_checkpoint_continues_in_another_layout(
    whole: dict[int, Path], on_two_ranks: dict[str, Path], change: str
) -> None:
    assert_same_curve(on_two_ranks[change], whole[4])


def test_a_checkpoint_of_shared_experts_continues_on_one_process(
    whole: dict[int, Path], on_two_ranks: dict[str, Path], on_four_ranks: dict[str, Path]
) -> None:
    assert train(on_two_ranks["ep2, then one"], *LENGTH, *MIXTURE) == 0
    assert_same_curve(on_two_ranks["ep2, then one"], whole[4])
    assert train(on_four_ranks["dp2 x ep2, then one"], *LENGTH, *MIXTURE, SIX) == 0
    assert_same_curve(on_four_ranks["dp2 x ep2, then one"], whole[6])


def test_answers_are_sampled_where_experts_are_shared(reinforced: tuple[Path, Path]) -> None:
    wanted, found = map(curves, reinforced)
    assert found["train/reward"] == pytest.approx(wanted["train/reward"])
    for name in ("train/grad_norm", "train/token_mult_prob_error", "train/approx_entropy"):
        assert sorted(found[name]) == [1, 2]
        for step, value in found[name].items():
            assert value == pytest.approx(wanted[name][step], rel=1e-4, abs=1e-6), (name, step)
