"""One rank of several fails, or all of them do: a message, a status, and whole checkpoints.

On the megatron backend, in several layouts; the torch backend's ranks fail in one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_interruptions import checkpoints
from training_runs import arguments, environment, free_port, losses

from evenkeel.errors import EXIT_INPUT, EXIT_MACHINE
from evenkeel.recipes.schema import Algorithm
from evenkeel.run_record import TrainerExit

MEGATRON = "policy.backend=megatron"
TP2 = "policy.parallel.tensor_parallel_size=2"
PP2 = "policy.parallel.pipeline_parallel_size=2"
EP2 = "policy.parallel.expert_parallel_size=2"
MICRO = "policy.train_micro_batch_size=4"
MIXTURE = (
    MEGATRON,
    MICRO,
    "policy.model_config.model_type=mixtral",
    "++policy.model_config.num_local_experts=4",
    "++policy.model_config.num_experts_per_tok=2",
    "++policy.model_config.sliding_window=null",
    "++policy.moe.token_dispatcher=allgather",
    "++policy.moe.grouped_gemm=false",
)
SAVING = ("checkpointing.save_period=1", "sft.max_num_steps=4")
HALF = ("sft.max_num_steps=4", "sft.steps_per_run=2")
LARGE_LOGITS = "policy.model_config.vocab_size=120000"
"""76 MB a micro-batch, of a model of 15 MB."""
DIVERGING = ("policy.optimizer.lr=1e20", "policy.scheduler.warmup_steps=0")

TRAININGS: list[tuple[str, int, str, tuple[str, ...]]] = [
    # (folder, rank, what happens to it, overrides); a folder's trainings continue each other
    ("killed, dp2", 1, "killed", (MEGATRON, MICRO, *SAVING)),
    ("killed, dp2", 0, "none", (MEGATRON, MICRO, *SAVING)),
    ("killed, pp2", 1, "killed", (MEGATRON, PP2, MICRO, *SAVING)),
    ("killed as it saves, tp2", 1, "killed while it saves", (MEGATRON, TP2, *SAVING)),
    ("killed as it saves, tp2", 0, "none", (MEGATRON, TP2, *SAVING)),
    ("killed, torch", 1, "killed", (MICRO, *SAVING)),
    ("out of memory, pp2", 1, "out of memory", (MEGATRON, PP2, LARGE_LOGITS, *SAVING)),
    ("out of memory, torch", 1, "out of memory", (MICRO, LARGE_LOGITS, *SAVING)),
    ("not a number, pp2", 0, "none", (MEGATRON, PP2, *DIVERGING, *SAVING)),
    ("a shard, tp2", 0, "none", (MEGATRON, TP2, *HALF)),
    ("a shard, tp2", 0, "a shard is missing", (MEGATRON, TP2, *HALF)),
    ("vocabulary", 0, "none", (MEGATRON, TP2, "policy.model_config.vocab_size=256")),
    ("odd vocabulary", 0, "none", (MEGATRON, TP2, "policy.model_config.vocab_size=273")),
    ("layers", 0, "none", (MEGATRON, PP2, "policy.model_config.num_hidden_layers=3")),
    ("experts", 0, "none", (*MIXTURE, *HALF)),
    ("experts", 0, "none", (*MIXTURE, EP2, *HALF)),
    ("experts back", 0, "none", (*MIXTURE, EP2, *HALF)),
    ("experts back", 0, "none", (*MIXTURE, *HALF)),
]

Ended = dict[str, list[list[tuple[int, str]]]]
"""By folder: of each of its trainings and each rank, exit status and standard error."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ended(root: Path) -> Ended:
    """All trainings on one pair of processes, because importing costs more than they do."""
    jobs = json.dumps(
        [
            [rank, fault, Algorithm.SFT.value, arguments(root / folder, overrides), free_port()]
            for folder, rank, fault, overrides in TRAININGS
        ]
    )
    script, port = Path(__file__).with_name("failing_ranks.py"), free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), jobs],
            env=environment(rank, 2, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    found: Ended = {}
    by_rank = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    for (folder, *_), *each in zip(TRAININGS, *by_rank, strict=True):
        found.setdefault(folder, []).append([(status, text) for status, text in each])
    return found


def statuses(ranks: list[tuple[int, str]]) -> list[int]:
    return [status for status, _ in ranks]


@pytest.mark.parametrize("case", ["killed, dp2", "killed, pp2", "killed, torch"])
def test_a_killed_rank_ends_the_other(ended: Ended, root: Path, case: str) -> None:
    first, *again = ended[case]
    assert statuses(first) == [EXIT_MACHINE, -signal.SIGKILL]
    assert "error: another rank is gone" in first[0][1]
    assert "the last checkpoint is whole, so call again" in first[0][1]
    if not again:
        assert checkpoints(root / case) == ["step_00000001", "step_00000002"]
        return
    assert statuses(again[0]) == [0, 0]
    assert sorted(losses(root / case)) == [1, 2, 3, 4]


def test_killed_while_it_saves(ended: Ended, root: Path) -> None:
    case = "killed as it saves, tp2"
    killed, again = ended[case]
    assert statuses(killed) == [EXIT_MACHINE, -signal.SIGKILL]
    assert "error: another rank is gone" in killed[0][1]
    # the third was half written
    assert "continuing from the checkpoint of step 2" in again[0][1]
    assert statuses(again) == [0, 0]
    assert checkpoints(root / case) == ["step_00000003", "step_00000004"]


@pytest.mark.parametrize("case", ["out of memory, pp2", "out of memory, torch"])
def test_a_rank_without_memory_says_what_would_need_less(
    ended: Ended, root: Path, case: str
) -> None:
    (ranks,) = ended[case]
    assert statuses(ranks) == [EXIT_MACHINE, EXIT_MACHINE]
    assert "error: another rank is gone" in ranks[0][1]
    assert "error: out of memory" in ranks[1][1]
    assert "lower policy.train_micro_batch_size" in ranks[1][1]
    assert checkpoints(root / case) == ["step_00000001", "step_00000002"]


def test_a_bad_number_ends_all_ranks(ended: Ended, root: Path) -> None:
    case = "not a number, pp2"
    (ranks,) = ended[case]
    assert statuses(ranks) == [TrainerExit.NON_FINITE, TrainerExit.NON_FINITE]
    last = max(losses(root / case))
    assert f"at step {last}" in ranks[0][1]
    assert "error" not in ranks[1][1]
    assert checkpoints(root / case) == [f"step_{step:08d}" for step in range(1, last)]


def test_a_missing_shard_is_named(ended: Ended, root: Path) -> None:
    case = "a shard, tp2"
    _, damaged = ended[case]
    assert statuses(damaged) == [EXIT_MACHINE, EXIT_MACHINE]
    message = "the checkpoint of step 2 is damaged: model/__1_0.distcp is missing"
    assert message in damaged[0][1]
    assert sorted(losses(root / case)) == [1, 2]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("vocabulary", "the tokenizer has 272 tokens"),
        ("odd vocabulary", "which does not divide the model's vocab_size = 273"),
        ("layers", "num_layers should be divisible by pipeline_model_parallel_size"),
    ],
)
def test_what_does_not_divide_is_refused_once(ended: Ended, case: str, message: str) -> None:
    (ranks,) = ended[case]
    assert statuses(ranks) == [EXIT_INPUT, EXIT_INPUT]
    assert message in ranks[0][1]
    assert "error" not in ranks[1][1]


def test_experts_continue_on_another_number_of_ranks(ended: Ended, root: Path) -> None:
    shared, back = "experts", "experts back"
    assert [statuses(ranks) for case in (shared, back) for ranks in ended[case]] == [[0, 0]] * 4
    found = losses(root / shared)
    assert found == pytest.approx(losses(root / back), rel=1e-4)
    assert len(set(found.values())) == 4
