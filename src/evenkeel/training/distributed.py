"""Ranks: who am I, how do I reach the others, and on which device do I compute."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from evenkeel.errors import InputError, MachineError
from evenkeel.recipes.schema import Device, Parallel, Recipe

TIMEOUT = timedelta(minutes=20)
"""How long a collective waits for a rank that may have died before it gives up."""


class SharedMachineError(MachineError):
    """A failure that every rank knows of and raises, so that one of them says it."""


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of the run, as the launcher numbered them."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def ranks_from(environment: Mapping[str, str]) -> Ranks:
    """Read torchrun's variables, else those of an ``srun`` task, else: one process.

    Inside a batch script Slurm sets ``SLURM_PROCID`` too; only ``srun`` says which step of the
    job a task belongs to, so a plain ``python`` in a batch script is one process.

    Raises:
        InputError: a variable is not a number.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        world = _number(environment, "WORLD_SIZE", 1)
        return Ranks(
            rank=_number(environment, "RANK", 0),
            world_size=world,
            local_rank=_number(environment, "LOCAL_RANK", 0),
            local_world_size=_number(environment, "LOCAL_WORLD_SIZE", world),
        )
    in_a_step = "SLURM_STEP_ID" in environment or "SLURM_JOB_ID" not in environment
    if "SLURM_PROCID" in environment and in_a_step:
        world = _number(environment, "SLURM_STEP_NUM_TASKS", 0)
        world = world or _number(environment, "SLURM_NTASKS", 1)
        per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", str(world))
        return Ranks(
            rank=_number(environment, "SLURM_PROCID", 0),
            world_size=world,
            local_rank=_number(environment, "SLURM_LOCALID", 0),
            local_world_size=int(re.match(r"\d*", per_node)[0] or world),  # type: ignore[index]
        )
    return Ranks(0, 1, 0, 1)


def rendezvous_address(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of rank 0's store: ``MASTER_ADDR``/``MASTER_PORT``, else from Slurm's.

    The port follows from job and step number, so that two jobs on one node do not meet.
    """
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    host = environment.get("MASTER_ADDR") or _first_host(nodes) or "127.0.0.1"
    if "MASTER_PORT" in environment:
        return host, _number(environment, "MASTER_PORT", 0)
    job = _number(environment, "SLURM_JOB_ID", 0)
    step = environment.get("SLURM_STEP_ID", "0")
    return host, 20000 + (job * 16 + (int(step) if step.isdecimal() else 0)) % 20000


def _first_host(nodes: str) -> str:
    """``gpu[07-09,12],login1`` → ``gpu07``."""
    match = re.match(r"([^,\[]*)(?:\[(\w+))?", nodes)
    return "" if match is None else match[1] + (match[2] or "")


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{name}={text!r} in the environment is not a number") from None


@dataclass(frozen=True)
class World:
    """The processes of this run, once they have met."""

    ranks: Ranks
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.ranks.rank == 0

    def mesh(self, parallel: Parallel) -> DeviceMesh:
        """The mesh ``(dp, tp)``, of a pipeline ``(pp, dp, tp)``; neighbours share a matrix.

        Raises:
            InputError: the sizes do not divide the number of ranks.
        """
        tensor, size = parallel.tensor_parallel_size, self.ranks.world_size
        stages = parallel.pipeline_parallel_size
        if tensor < 1 or size % tensor:
            raise InputError(
                f"policy.parallel.tensor_parallel_size is {tensor}, and {size} rank(s) run",
                fix="start a multiple of that many ranks (cluster.gpus_per_node), or change it",
            )
        if stages > 1:
            return self._mesh_of_stages(stages, tensor)
        return init_device_mesh(
            self.device.type, (size // tensor, tensor), mesh_dim_names=("dp", "tp")
        )

    def _mesh_of_stages(self, stages: int, tensor: int) -> DeviceMesh:
        size = self.ranks.world_size
        if size % (stages * tensor):
            raise InputError(
                f"policy.parallel asks for pipeline {stages} x tensor {tensor} = "
                f"{stages * tensor} ranks for one copy of the model, and {size} rank(s) run",
                fix="start a multiple of that many ranks (cluster.gpus_per_node), or change the "
                "sizes",
            )
        return init_device_mesh(
            self.device.type,
            (stages, size // (stages * tensor), tensor),
            mesh_dim_names=("pp", "dp", "tp"),
        )

    def any_rank(self, flag: int) -> int:
        """The largest ``flag`` of all ranks."""
        if self.ranks.world_size == 1:
            return flag
        value = torch.tensor(flag)  # on the CPU: no rank waits for its GPU
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value.item())

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.ranks.world_size > 1:
            dist.barrier()

    def first_failure(self, failure: str | None) -> str | None:
        """The message of the lowest rank that has one, on every rank."""
        if self.ranks.world_size == 1:
            return failure
        failures: list[str | None] = [None] * self.ranks.world_size
        dist.all_gather_object(failures, failure)
        return next((message for message in failures if message is not None), None)


@contextmanager
def joined(recipe: Recipe, environment: Mapping[str, str] | None = None) -> Iterator[World]:
    """Meet the other processes, and leave them on the way out.

    A single process gets a process group of its own, so that the code below has one path.

    Raises:
        InputError: the recipe wants CUDA and there is none, or the environment is inconsistent.
        MachineError: the processes did not meet.
    """
    environment = os.environ if environment is None else environment
    ranks = ranks_from(environment)
    device = _device(recipe.cluster.device, ranks)
    set_threads(ranks, environment)
    try:
        _initialise(ranks, device, environment)
    except (RuntimeError, ValueError, OSError) as error:
        host, port = rendezvous_address(environment)
        raise MachineError(
            f"rank {ranks.rank} of {ranks.world_size} did not meet the others at "
            f"{host}:{port}: {error}"
        ) from error
    try:
        yield World(ranks, device)
    finally:
        dist.destroy_process_group()


def _initialise(ranks: Ranks, device: torch.device, environment: Mapping[str, str]) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store: Store
    if ranks.world_size == 1:
        store = HashStore()
    else:
        host, port = rendezvous_address(environment)
        # torchrun's agent already holds the store
        master = ranks.rank == 0 and "TORCHELASTIC_USE_AGENT_STORE" not in environment
        store = TCPStore(host, port, ranks.world_size, master, TIMEOUT)
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"evenkeel/{attempt}", store)
    dist.init_process_group(
        backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=TIMEOUT
    )


def _device(wanted: Device, ranks: Ranks) -> torch.device:
    if wanted is Device.CPU:
        return torch.device("cpu")
    if torch.cuda.is_available():
        if ranks.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"{ranks.local_world_size} ranks on this node, and it has "
                f"{torch.cuda.device_count()} GPU(s)",
                fix="start one rank per GPU, or set cluster.device=cpu",
            )
        device = torch.device("cuda", ranks.local_rank)
        torch.cuda.set_device(device)
        return device
    if wanted is Device.CUDA:
        raise InputError(
            "cluster.device is cuda, and torch sees no GPU here",
            fix="run on a GPU node, or set cluster.device=cpu for a small model",
        )
    return torch.device("cpu")


def set_threads(ranks: Ranks, environment: Mapping[str, str]) -> None:
    """Share this node's cores among its ranks, unless the user set ``OMP_NUM_THREADS``.

    torchrun sets it to 1 for more than one process; that is not the user's wish.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in environment and ranks.local_world_size > 1
    if "OMP_NUM_THREADS" in environment and not (
        by_torchrun and environment["OMP_NUM_THREADS"] == "1"
    ):
        return
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores // ranks.local_world_size))
