from __future__ import annotations

import pytest

from evenkeel.errors import InputError
from evenkeel.training.distributed import Ranks, ranks_from, rendezvous_address


def test_one_process() -> None:
    assert ranks_from({}) == Ranks(0, 1, 0, 1)


def test_torchrun() -> None:
    variables = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}
    assert ranks_from(variables) == Ranks(9, 16, 1, 8)


SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def test_srun() -> None:
    assert ranks_from(SRUN) == Ranks(3, 4, 1, 2)
    host, port = rendezvous_address(SRUN)
    assert host == "gpu07"
    assert 20000 <= port < 40000
    assert port != rendezvous_address({**SRUN, "SLURM_STEP_ID": "3"})[1]


def test_only_the_three_variables_of_a_task() -> None:
    task = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NTASKS": "2"}
    assert ranks_from(task) == Ranks(1, 2, 1, 2)


def test_a_batch_script_is_one_process() -> None:
    batch = {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}
    assert ranks_from(batch) == Ranks(0, 1, 0, 1)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("login1,gpu2", "login1"), ("a-[3,5-9],b1", "a-3"), ("", "127.0.0.1")],
)
def test_the_first_host(nodes: str, host: str) -> None:
    assert rendezvous_address({"SLURM_JOB_NODELIST": nodes})[0] == host


def test_an_address_that_is_given_wins() -> None:
    given = {**SRUN, "MASTER_ADDR": "here", "MASTER_PORT": "1234"}
    assert rendezvous_address(given) == ("here", 1234)


def test_not_a_number() -> None:
    with pytest.raises(InputError, match="WORLD_SIZE='two'"):
        ranks_from({"RANK": "0", "WORLD_SIZE": "two"})
