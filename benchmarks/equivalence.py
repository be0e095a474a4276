"""How far the curve of one recipe moves when only its layout changes.

    python benchmarks/equivalence.py [--steps 20] [--only WORD] [--folder DIR] [--json FILE]

Trains the recipes below on CPU in fp32 in every layout, ranks as processes over gloo with one
thread each, and prints one table: for each the largest relative difference of ``train/loss`` and
``train/grad_norm`` from the torch backend on one process. Exit status 1 where a loss differs by
more than ``TOLERANCE``. With ``--folder`` the curves are kept there, and a call after one that was
stopped trains what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from torch.distributed import TCPStore

from evenkeel.metrics.collection import collect
from evenkeel.recipes.schema import Algorithm

RECIPES = Path(__file__).parents[1] / "examples/configs/recipes"
TOLERANCE = 1e-4
"""Relative, of ``train/loss``: other orders of the same sums in fp32, grown over the steps."""
METRICS = ("train/loss", "train/grad_norm")
PACKAGES = ("torch", "transformers", "megatron-core")
DONE = "done"
"""File in a run's folder once all its steps are logged."""

MEGATRON = "policy.backend=megatron"
TP2 = "policy.parallel.tensor_parallel_size=2"
PP2 = "policy.parallel.pipeline_parallel_size=2"
CP2 = "policy.parallel.context_parallel_size=2"
SP = "policy.parallel.sequence_parallel=true"
INTERLEAVED = "policy.parallel.virtual_pipeline_parallel_size=2"
PACKED = "policy.sequence_packing.enabled=true"
RECOMPUTED = "policy.activation_checkpointing=true"
ONE_COPY = "policy.parallel.expert_parallel_size=1"
UNBALANCED = "policy.moe.router_aux_loss_coef=0"  # the balance of a micro-batch is no sum over it
# of the three layers behind LLaVA's tower
UNEVEN = ("policy.parallel.num_layers_in_first_pipeline_stage=1",)
ON_TORCH = ("policy.backend=fsdp2", "~policy.moe")  # which has no balance loss


def micro(size: int) -> str:
    """Samples of one micro-batch on one rank."""
    return f"policy.train_micro_batch_size={size}"


@dataclass(frozen=True)
class Group:
    """One recipe, and the layouts that must not change its curve."""

    recipe: str
    setup: tuple[str, ...]
    reference: tuple[str, ...]
    """Overrides of the run that the others are compared with, on one process."""
    layouts: Mapping[str, tuple[int, tuple[str, ...]]]
    """Name → number of ranks, overrides."""


DENSE = Group(
    "sft-llama-0.9m-1n1g-fsdp2tp1",
    ("policy.train_global_batch_size=16", "policy.optimizer.lr=1e-3"),
    (micro(16),),
    {
        "torch, a second time": (1, (micro(16),)),
        "torch, micro-batches of 4": (1, (micro(4),)),
        "torch, micro-batches of 3": (1, (micro(3),)),
        "torch, packed": (1, (micro(2), PACKED)),
        "torch, activation checkpointing": (1, (micro(16), RECOMPUTED)),
        "torch, logits 64 at a time": (1, (micro(16), "policy.logits_chunk_size=64")),
        "torch, fsdp2 x2": (2, (micro(8),)),
        "torch, fsdp2 x2, micro-batches of 2, recomputed": (2, (micro(2), RECOMPUTED)),
        "torch, fsdp2 x2, packed": (2, (micro(1), PACKED)),
        "torch, tp2": (2, (micro(16), TP2)),
        "torch, tp2 + sp": (2, (micro(16), TP2, SP)),
        "torch, tp2, logits 64 at a time": (2, (micro(16), TP2, "policy.logits_chunk_size=64")),
        "torch, fsdp2 x2, tp2": (4, (micro(8), TP2)),
        "torch, pp2": (2, (micro(4), PP2)),
        "torch, pp2, packed": (2, (micro(1), PP2, PACKED)),
        "torch, pp2, fsdp2 x2": (4, (micro(2), PP2)),
        "torch, pp2, tp2": (4, (micro(4), PP2, TP2)),
        "megatron, one process": (1, (MEGATRON, micro(16))),
        "megatron, micro-batches of 4, recomputed": (1, (MEGATRON, micro(4), RECOMPUTED)),
        "megatron, packed": (1, (MEGATRON, micro(2), PACKED)),
        "megatron, dp2": (2, (MEGATRON, micro(8))),
        "megatron, tp2": (2, (MEGATRON, micro(16), TP2)),
        "megatron, tp2 + sp": (2, (MEGATRON, micro(16), TP2, SP)),
        "megatron, pp2": (2, (MEGATRON, micro(4), PP2)),
        "megatron, pp2, interleaved": (2, (MEGATRON, micro(4), PP2, INTERLEAVED)),
        "megatron, pp2, packed": (2, (MEGATRON, micro(1), PP2, PACKED)),
        "megatron, cp2": (2, (MEGATRON, micro(16), CP2)),
        "megatron, cp2, packed": (2, (MEGATRON, micro(2), CP2, PACKED)),
        "megatron, tp2, pp2": (4, (MEGATRON, micro(4), TP2, PP2)),
    },
)
MIXTURE = Group(
    "sft-mixtral-0.3m-1n2g-megatronep2",
    ("policy.train_global_batch_size=16", "policy.optimizer.lr=1e-3"),
    (*ON_TORCH, ONE_COPY, micro(16)),
    {
        "torch, mixture, fsdp2 x2": (2, (micro(8), *ON_TORCH, ONE_COPY)),
        "torch, mixture, tp2, ep2": (2, (micro(16), *ON_TORCH, TP2)),
        "torch, mixture, tp2 + sp, ep2": (2, (micro(16), *ON_TORCH, TP2, SP)),
        "torch, mixture, fsdp2 x2, tp2, ep2": (4, (micro(8), *ON_TORCH, TP2)),
        "megatron, mixture, one process": (1, (micro(16), UNBALANCED, ONE_COPY)),
        "megatron, mixture, ep2": (2, (micro(8), UNBALANCED)),
        "megatron, mixture, ep2, tp2 + sp": (4, (micro(8), UNBALANCED, TP2, SP)),
    },
)
VISION = Group(
    "vlm_sft-llava-0.3m-1n1g-fsdp2tp1",
    ("policy.train_global_batch_size=16", "policy.optimizer.lr=1e-3"),
    (micro(16),),
    {
        "torch, images, fsdp2 x2": (2, (micro(8),)),
        "torch, images, tp2 + sp": (2, (micro(16), TP2, SP)),
        "megatron, images, one process": (1, (MEGATRON, micro(16))),
        "megatron, images, packed, recomputed": (1, (MEGATRON, micro(2), PACKED, RECOMPUTED)),
        "megatron, images, dp2": (2, (MEGATRON, micro(8))),
        "megatron, images, tp2": (2, (MEGATRON, micro(16), TP2)),
        "megatron, images, tp2 + sp": (2, (MEGATRON, micro(16), TP2, SP)),
        "megatron, images, pp2": (2, (MEGATRON, micro(4), PP2, *UNEVEN)),
        "megatron, images, tp2, pp2": (4, (MEGATRON, micro(4), TP2, PP2, *UNEVEN)),
    },
)


@dataclass(frozen=True)
class Run:
    """One training of the comparison."""

    name: str
    num_ranks: int
    arguments: tuple[str, ...]
    folder: Path

    def curve(self, metric: str) -> Mapping[int, float]:
        """What was logged, by step."""
        return collect(self.folder / "logs").metrics[metric]

    @property
    def is_done(self) -> bool:
        """Whether it was trained to its end, now or in an earlier call."""
        return (self.folder / DONE).exists()


def run_of(
    group: Group, name: str, num_ranks: int, overrides: Sequence[str], steps: int, folder: Path
) -> Run:
    """The trainer's command line for one layout of a group."""
    place = folder / f"{steps}-steps" / group.recipe / name.replace(" ", "-").replace(",", "")
    arguments = (
        "--config",
        str(next(RECIPES.glob(f"*/{group.recipe}.yaml"))),
        f"logger.log_dir={place / 'logs'}",
        f"checkpointing.checkpoint_dir={place / 'ckpts'}",
        "checkpointing.enabled=false",
        f"cluster.gpus_per_node={num_ranks}",
        f"sft.steps_per_run={steps}",
        "sft.val_at_start=false",
        *group.setup,
        *overrides,
    )
    return Run(name, num_ranks, arguments, place)


def train(runs: Sequence[Run]) -> None:
    """Train those of one number of ranks in turn, on one set of processes."""
    num_ranks = runs[0].num_ranks
    for run in runs:
        shutil.rmtree(run.folder, ignore_errors=True)  # what a stopped call has left
    # a store that is there all the time: a port that is only chosen is somebody else's by the time
    # that the trainers before have ended
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=be_rank, args=(rank, num_ranks, store.port, list(runs)))
        for rank in range(num_ranks)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        raise SystemExit(f"a training failed; exit codes {[p.exitcode for p in ranks]}")


def be_rank(rank: int, num_ranks: int, port: int, runs: Sequence[Run]) -> None:
    """One process of all trainings of its number of ranks."""
    warnings.simplefilter("ignore")
    from evenkeel.training.run import main

    for number, run in enumerate(runs):
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(number),  # keeps the runs apart in the store
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            status = main(Algorithm.SFT, list(run.arguments))
        if status:
            sys.exit(f"{run.name}: exit status {status}")
        if rank == 0:
            (run.folder / DONE).touch()


def runs_of(group: Group, steps: int, only: str, folder: Path) -> tuple[Run, list[Run]]:
    """The reference, and the layouts to compare with it."""
    reference = run_of(group, "reference", 1, group.reference, steps, folder)
    runs = [
        run_of(group, name, num_ranks, overrides, steps, folder)
        for name, (num_ranks, overrides) in group.layouts.items()
        if only in name
    ]
    return reference, runs


def compare(steps: int, only: str, folder: Path) -> list[dict[str, object]]:
    """Train what is missing, then print the table; one row a layout."""
    groups = {
        group.recipe: runs_of(group, steps, only, folder) for group in (DENSE, MIXTURE, VISION)
    }
    groups = {recipe: (reference, runs) for recipe, (reference, runs) in groups.items() if runs}
    everything = [run for reference, runs in groups.values() for run in (reference, *runs)]
    for num_ranks in (1, 2, 4):
        missing = [run for run in everything if run.num_ranks == num_ranks and not run.is_done]
        if missing:
            train(missing)
    print(f"{time.strftime('%Y-%m-%d')}, {steps} steps, " + ", ".join(map(versioned, PACKAGES)))
    print("\n| layout | ranks | `train/loss` | `train/grad_norm` |")
    print("| --- | --- | --- | --- |")
    rows = []
    for recipe, (reference, runs) in groups.items():
        wanted = {metric: reference.curve(metric) for metric in METRICS}
        ends = [wanted["train/loss"][step] for step in (1, steps)]
        print(f"| `{recipe}`: loss {ends[0]:.3f} to {ends[1]:.3f} | | | |")
        rows += [row(run, wanted) for run in runs]
    return rows


def versioned(package: str) -> str:
    return f"{package} {version(package)}"


def row(run: Run, wanted: Mapping[str, Mapping[int, float]]) -> dict[str, object]:
    """Print and return how far a run is from the reference's curves."""
    differences = {m: largest_difference(run.curve(m), wanted[m]) for m in METRICS}
    cells = " | ".join(map(shown, differences.values()))
    print(f"| {run.name} | {run.num_ranks} | {cells} |", flush=True)
    return {"layout": run.name, "ranks": run.num_ranks, **differences}


def shown(difference: float) -> str:
    """``1.3e-7``; ``0`` where every bit is equal."""
    return f"{difference:.1e}".replace("e-0", "e-") if difference else "0"


def largest_difference(found: Mapping[int, float], wanted: Mapping[int, float]) -> float:
    """Relative, over all steps."""
    if sorted(found) != sorted(wanted):
        raise SystemExit(f"steps {sorted(found)} instead of {sorted(wanted)}")
    return max(abs(found[step] - value) / abs(value) for step, value in wanted.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", default="", help="layouts whose name has this word")
    parser.add_argument("--folder", type=Path, help="keep the curves, and take those kept")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        rows = compare(arguments.steps, arguments.only, folder.absolute())
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    beyond = [each["layout"] for each in rows if float(str(each["train/loss"])) > TOLERANCE]
    print(f"\ntolerance of `train/loss`: {shown(TOLERANCE)}; {beyond or 'all within'}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
