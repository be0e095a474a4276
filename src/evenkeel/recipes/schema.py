"""What a recipe may say: every section and field, with its type, default and meaning.

Each field declares whether it can change the loss curve. ``shapes_curve`` fields (data, seed,
loss, optimizer, schedule, batch, sequence length, model, precision) make up a recipe's
fingerprint: changing one needs a new ``.vN``. ``layout_only`` fields (parallelism, micro-batch,
recomputation, logging) may change speed and memory, never the curve beyond rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SHAPES_CURVE = "shapes_curve"
BOUNDS = "bounds"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a field's value must keep to, beside its type; for a list, each of its elements."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    length: int | None = None
    """Elements of a list."""

    def complaint(self, value: Any) -> str | None:
        """What ``value`` should be, where it is not."""
        if self.minimum is not None and value < self.minimum:
            return f"must be at least {self.minimum}"
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self.maximum}"
        if self.above is not None and value <= self.above:
            return f"must be above {self.above}"
        if self.below is not None and value >= self.below:
            return f"must be below {self.below}"
        return None


AT_LEAST_0 = Bounds(minimum=0)
AT_LEAST_1 = Bounds(minimum=1)
POSITIVE = Bounds(above=0)
SHARE = Bounds(minimum=0, maximum=1)


def shapes_curve(default: Any, bounds: Bounds | None = None) -> Any:
    """A field that belongs to the fingerprint."""
    return _declared(default, True, bounds)


def layout_only(default: Any, bounds: Bounds | None = None) -> Any:
    """A field that may change how a run is carried out, not what it computes."""
    return _declared(default, False, bounds)


def _declared(default: Any, relevant: bool, bounds: Bounds | None) -> Any:
    metadata = {SHAPES_CURVE: relevant, BOUNDS: bounds}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


class Algorithm(StrEnum):
    """What the trainer optimises; also the name of the recipe's section that configures it."""

    PRETRAIN = "pretrain"
    SFT = "sft"
    DPO = "dpo"
    GRPO = "grpo"
    DISTILLATION = "distillation"


class Backend(StrEnum):
    """Which library holds the model and moves the gradients."""

    FSDP2 = "fsdp2"
    MEGATRON = "megatron"


class Precision(StrEnum):
    """Type of the forward and backward computation; parameters and optimizer states stay fp32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Device(StrEnum):
    """Where the ranks compute: ``auto`` takes CUDA where there is a card."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Schedule(StrEnum):
    """Learning rate after warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    WSD = "wsd"


@dataclass(kw_only=True)
class Tokenizer:
    """How text becomes token ids."""

    name: str | None = shapes_curve(None)
    """``bytes`` (built in, 256 bytes and a few special tokens), a Hugging Face name, or a folder;
    absent: the tokenizer of ``policy.model_name``."""
    chat_template: str | None = shapes_curve(None)
    """A Jinja chat template that replaces the tokenizer's own."""


@dataclass(kw_only=True)
class Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    name: str = shapes_curve("adamw")
    """``adamw`` is the only one so far."""
    lr: float = shapes_curve(1e-3, POSITIVE)
    """Peak learning rate."""
    weight_decay: float = shapes_curve(0.0, AT_LEAST_0)
    """Decoupled weight decay; applies to matrices, not to norms, biases and embeddings."""
    betas: list[float] = shapes_curve([0.9, 0.95], Bounds(minimum=0, below=1, length=2))
    """Decay of the first and second moment."""
    eps: float = shapes_curve(1e-8, POSITIVE)
    """Added to the root of the second moment."""


@dataclass(kw_only=True)
class Scheduler:
    """Learning rate over steps: linear warm-up, then the named schedule."""

    name: Schedule = shapes_curve(Schedule.COSINE)
    """Shape after warm-up; ``wsd`` is warm-up, stable, linear decay."""
    warmup_steps: int = shapes_curve(0, AT_LEAST_0)
    """Steps of linear warm-up from 0 to the peak."""
    decay_steps: int | None = shapes_curve(None, AT_LEAST_1)
    """Step at which the decay ends; absent: the algorithm's ``max_num_steps``. A recipe that is
    trained in several jobs gives the length of the whole training here."""
    wsd_decay_fraction: float = shapes_curve(0.2, SHARE)
    """``wsd`` only: the last share of the steps in which the rate falls."""
    min_lr_ratio: float = shapes_curve(0.0, SHARE)
    """Final learning rate as a share of the peak."""


@dataclass(kw_only=True)
class Parallel:
    """How one model is spread over ranks; data parallel size is what remains of the world."""

    tensor_parallel_size: int = layout_only(1, AT_LEAST_1)
    """Ranks that share each matrix."""
    pipeline_parallel_size: int = layout_only(1, AT_LEAST_1)
    """Ranks that share the stack of layers."""
    context_parallel_size: int = layout_only(1, AT_LEAST_1)
    """Ranks that share each sequence."""
    expert_parallel_size: int = layout_only(1, AT_LEAST_1)
    """Ranks that share the experts of a mixture."""
    sequence_parallel: bool = layout_only(False)
    """Norms and residuals are split along the sequence within a tensor-parallel group."""


@dataclass(kw_only=True)
class SequencePacking:
    """Several samples in one row, with block-diagonal attention and restarted positions."""

    enabled: bool = layout_only(False)
    """Pack samples up to ``max_total_sequence_length`` tokens a row."""


@dataclass(kw_only=True)
class Policy:
    """The model that is trained and how a step treats it."""

    model_name: str | None = shapes_curve(None)
    """Hugging Face name or folder that pretrained weights come from; absent: seeded random
    weights of ``model_config``."""
    hf_path: str | None = layout_only(None)
    """A local copy of ``model_name``, used instead of the hub."""
    model_config: dict[str, Any] = shapes_curve({})
    """The architecture, in the keys of the transformers configuration class that ``model_type``
    names; with ``model_name`` it is what the loaded configuration is checked against."""
    tokenizer: Tokenizer = shapes_curve(Tokenizer)
    backend: Backend = layout_only(Backend.FSDP2)
    parallel: Parallel = layout_only(Parallel)
    precision: Precision = shapes_curve(Precision.BFLOAT16)
    max_total_sequence_length: int = shapes_curve(2048, AT_LEAST_1)
    """Tokens of a sample; longer ones are cut."""
    train_global_batch_size: int = shapes_curve(32, AT_LEAST_1)
    """Samples of one optimizer step, over all ranks."""
    train_micro_batch_size: int = layout_only(1, AT_LEAST_1)
    """Samples of one forward pass on one rank."""
    max_grad_norm: float = shapes_curve(1.0, AT_LEAST_0)
    """Gradients are scaled down to this global 2-norm; 0 turns clipping off."""
    activation_checkpointing: bool = layout_only(False)
    """Recompute each layer's activations in the backward pass."""
    sequence_packing: SequencePacking = layout_only(SequencePacking)
    optimizer: Optimizer = shapes_curve(Optimizer)
    scheduler: Scheduler = shapes_curve(Scheduler)


@dataclass(kw_only=True)
class TrainLoop:
    """What every algorithm's loop needs to know."""

    max_num_steps: int = layout_only(100, AT_LEAST_1)
    """Optimizer steps; a run that stops earlier is not finished."""
    steps_per_run: int | None = layout_only(None, AT_LEAST_1)
    """Steps of one start of the trainer: it then saves a checkpoint and ends, and the next start
    continues; absent: all of them."""
    val_period: int = layout_only(0, AT_LEAST_0)
    """Steps between validations; 0: only after the last step."""
    val_at_start: bool = layout_only(False)
    """Validate before the first step, too."""
    val_global_batch_size: int = layout_only(64, AT_LEAST_1)
    """Samples of one validation forward pass, over all ranks."""


@dataclass(kw_only=True)
class Sft(TrainLoop):
    """Supervised fine-tuning: cross-entropy on the tokens of the assistant's turns."""


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
class Recipe:
    """One training set-up, resolved."""

    algorithm: Algorithm = shapes_curve(Algorithm.SFT)
    seed: int = shapes_curve(42, AT_LEAST_0)
    policy: Policy = shapes_curve(Policy)
    data: Data = shapes_curve(Data)
    sft: Sft | None = shapes_curve(None)
    checkpointing: Checkpointing = layout_only(Checkpointing)
    logger: Logger = layout_only(Logger)
    cluster: Cluster = layout_only(Cluster)

    @property
    def loop(self) -> TrainLoop:
        """The section of the recipe's own algorithm."""
        section: TrainLoop | None = getattr(self, self.algorithm.value)
        return TrainLoop() if section is None else section
