"""What a recipe may say: every section and field, with its type, default and meaning.

The section ``policy`` is in ``policy.py``, those of the algorithms are in ``algorithms.py``.

Each field declares whether it can change the loss curve. ``shapes_curve`` fields (data, seed,
loss, optimizer, schedule, batch, sequence length, model, precision) make up a recipe's
fingerprint: changing one needs a new ``.vN``. ``layout_only`` fields (parallelism, micro-batch,
recomputation, logging) may change speed and memory, never the curve beyond rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evenkeel.recipes.algorithms import (
    Distillation,
    Dpo,
    Grpo,
    KlEstimator,
    KlType,
    PreferenceLoss,
    Pretrain,
    Sft,
    Teacher,
    TrainLoop,
    WarmStart,
)
from evenkeel.recipes.declaration import AT_LEAST_0, AT_LEAST_1, POSITIVE, layout_only, shapes_curve
from evenkeel.recipes.policy import (
    Backend,
    Colocated,
    DynamicBatching,
    Generation,
    GenerationBackend,
    Lora,
    Moe,
    Optimizer,
    Parallel,
    Policy,
    Precision,
    Schedule,
    Scheduler,
    SequencePacking,
    TokenDispatcher,
    Tokenizer,
    Vision,
)

# one door to the schema: no other module needs to know in which file a section is
__all__ = [
    "Algorithm",
    "Backend",
    "Checkpointing",
    "Cluster",
    "Colocated",
    "Data",
    "Device",
    "Distillation",
    "Dpo",
    "DynamicBatching",
    "Equivalence",
    "Generation",
    "GenerationBackend",
    "Grpo",
    "KlEstimator",
    "KlType",
    "Logger",
    "Lora",
    "Moe",
    "Optimizer",
    "Parallel",
    "Policy",
    "Precision",
    "PreferenceLoss",
    "Pretrain",
    "Recipe",
    "Schedule",
    "Scheduler",
    "SequencePacking",
    "Sft",
    "Teacher",
    "TokenDispatcher",
    "Tokenizer",
    "Tracker",
    "TrainLoop",
    "Vision",
    "WarmStart",
]


class Algorithm(StrEnum):
    """What the trainer optimises; also the name of the recipe's section that configures it."""

    PRETRAIN = "pretrain"
    SFT = "sft"
    DPO = "dpo"
    GRPO = "grpo"
    DISTILLATION = "distillation"


class Device(StrEnum):
    """Where the ranks compute: ``auto`` takes CUDA where there is a card."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(kw_only=True)
class Data:
    """Where samples come from; which keys apply depends on ``dataset``."""

    dataset: str = shapes_curve("arithmetic")
    """A generated or installed set by name, ``jsonl``, or ``huggingface``."""
    train_path: str | None = shapes_curve(None)
    """``jsonl``: the file; ``huggingface``: the name or folder."""
    val_path: str | None = shapes_curve(None)
    """The same for validation; absent: ``val_split`` or a part held out of the training set."""
    train_split: str = shapes_curve("train")
    """``huggingface``: the split."""
    val_split: str | None = shapes_curve(None)
    """``huggingface``: the validation split."""
    num_train_samples: int | None = shapes_curve(None, AT_LEAST_1)
    """Generated sets: how many; files: at most so many."""
    num_val_samples: int | None = shapes_curve(None, AT_LEAST_1)
    """The same for validation."""
    shuffle: bool = shapes_curve(True)
    """A new seeded order every epoch; off: the order of the file."""
    options: dict[str, Any] = shapes_curve({})
    """Keyword arguments of a generated set, such as ``max_operand`` of ``arithmetic``."""


@dataclass(kw_only=True)
class Checkpointing:
    """When the training state is saved."""

    enabled: bool = layout_only(True)
    checkpoint_dir: str = layout_only("ckpts")
    save_period: int = layout_only(50, AT_LEAST_1)
    """Steps between checkpoints; one is also written after the last step and on SIGTERM."""
    keep_latest: int = layout_only(2, AT_LEAST_1)
    """Older checkpoints are removed once a newer one is whole."""


@dataclass(kw_only=True)
class Tracker:
    """An optional experiment tracker."""

    enabled: bool = layout_only(False)
    project: str = layout_only("evenkeel")
    name: str | None = layout_only(None)
    """Absent: the recipe's name."""


@dataclass(kw_only=True)
class Logger:
    """Where metrics go."""

    log_dir: str = layout_only("logs")
    wandb: Tracker = layout_only(Tracker)
    mlflow: Tracker = layout_only(Tracker)


@dataclass(kw_only=True)
class Cluster:
    """The allocation; name, driver and recipe agree on it."""

    num_nodes: int = layout_only(1, AT_LEAST_1)
    gpus_per_node: int = layout_only(8, AT_LEAST_1)
    """Ranks per node; on CPU, processes."""
    device: Device = layout_only(Device.AUTO)


@dataclass(kw_only=True)
class Equivalence:
    """Which recipes must train the same curve: other layouts and backends of one training."""

    group: str | None = layout_only(None)
    """Name that its members share; absent: the recipe is in no group."""
    tolerance: float = layout_only(0.02, POSITIVE)
    """Largest relative distance, block by block, from the first member of the group."""
    metrics: list[str] = layout_only(["train/loss"])
    """Curves that are compared."""
    steps: int | None = layout_only(None, AT_LEAST_1)
    """Only the first so many steps are compared, before differences of rounding have grown;
    absent: all."""


@dataclass(kw_only=True)
class Recipe:
    """One training set-up, resolved."""

    algorithm: Algorithm = shapes_curve(Algorithm.SFT)
    seed: int = shapes_curve(42, AT_LEAST_0)
    policy: Policy = shapes_curve(Policy)
    data: Data = shapes_curve(Data)
    pretrain: Pretrain | None = shapes_curve(None)
    sft: Sft | None = shapes_curve(None)
    dpo: Dpo | None = shapes_curve(None)
    grpo: Grpo | None = shapes_curve(None)
    distillation: Distillation | None = shapes_curve(None)
    checkpointing: Checkpointing = layout_only(Checkpointing)
    logger: Logger = layout_only(Logger)
    cluster: Cluster = layout_only(Cluster)
    equivalence: Equivalence | None = layout_only(None)
    """Absent: no other recipe trains the same curve."""

    @property
    def loop(self) -> TrainLoop:
        """The section of the recipe's own algorithm."""
        section: TrainLoop | None = getattr(self, self.algorithm.value)
        return TrainLoop() if section is None else section

    def val_samples_per_pass(self, dp_size: int) -> int:
        """Validation samples (``grpo``: answers) that one of ``dp_size`` ranks works on at once.

        A rank's share of a validation batch, in as few equal parts as the limit allows.
        """
        limit = self.loop.val_micro_batch_size
        if limit is None and isinstance(self.loop, Grpo):
            limit = self.loop.answers_per_rank(dp_size)
        share = math.ceil(self.loop.val_global_batch_size / dp_size)
        num_passes = math.ceil(share / (limit or self.policy.samples_per_pass))
        return math.ceil(share / num_passes)
