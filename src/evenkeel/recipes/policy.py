"""The section ``policy`` of a recipe: the model that is trained, and how a step treats it.

``schema`` says what a field declares; others import from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evenkeel.recipes.algorithms import WarmStart
from evenkeel.recipes.declaration import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    SHARE,
    Bounds,
    layout_only,
    shapes_curve,
)


class Backend(StrEnum):
    """Which library holds the model and moves the gradients."""

    FSDP2 = "fsdp2"
    MEGATRON = "megatron"


class Precision(StrEnum):
    """Type of the forward and backward computation; parameters and optimizer states stay fp32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FP8 = "fp8"
    """Matrix products in 8-bit floating point, the rest in bfloat16; needs Hopper or newer."""


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
    """Ranks that share the experts of a mixture; on fsdp2 they are those that share matrices."""
    expert_tensor_parallel_size: int | None = layout_only(None, AT_LEAST_1)
    """Ranks that share each matrix of an expert; absent: as ``tensor_parallel_size`` on megatron,
    and 1 on fsdp2, which keeps experts whole."""
    virtual_pipeline_parallel_size: int | None = layout_only(None, AT_LEAST_1)
    """Pieces of the stack that each pipeline rank holds; absent: one."""
    num_layers_in_first_pipeline_stage: int | None = layout_only(None, AT_LEAST_1)
    """Where the layers do not divide evenly; absent: they do."""
    num_layers_in_last_pipeline_stage: int | None = layout_only(None, AT_LEAST_1)
    """Where the layers do not divide evenly; absent: they do."""
    sequence_parallel: bool = layout_only(False)
    """Norms and residuals are split along the sequence within a tensor-parallel group."""


@dataclass(kw_only=True)
class SequencePacking:
    """Several samples in one row, with block-diagonal attention and restarted positions."""

    enabled: bool = layout_only(False)
    """Pack samples up to ``max_total_sequence_length`` tokens a row."""


@dataclass(kw_only=True)
class DynamicBatching:
    """Micro-batches of like-long rows, as many as fit, instead of a fixed number of rows."""

    enabled: bool = layout_only(False)
    """``train_micro_batch_size`` then does not count."""
    train_micro_batch_tokens: int = layout_only(8192, AT_LEAST_1)
    """Positions of one forward pass on one rank, padding included; a longer row goes alone."""


@dataclass(kw_only=True)
class Lora:
    """Low-rank updates are trained, the weights stay (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = shapes_curve(16, AT_LEAST_1)
    """Rank of each update."""
    alpha: float = shapes_curve(32.0, POSITIVE)
    """Updates are scaled by alpha / rank."""
    dropout: float = shapes_curve(0.0, Bounds(minimum=0, below=1))
    target_modules: list[str] = shapes_curve(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Names of the linear layers that get an update."""


class TokenDispatcher(StrEnum):
    """How tokens travel to the ranks of their experts."""

    ALLGATHER = "allgather"
    ALLTOALL = "alltoall"
    FLEX = "flex"


@dataclass(kw_only=True)
class Moe:
    """How a mixture of experts is trained; its architecture stands in ``model_config``."""

    router_aux_loss_coef: float = shapes_curve(1e-3, AT_LEAST_0)
    """Weight of the load-balancing loss (Fedus et al. 2021, arXiv:2101.03961)."""
    router_z_loss_coef: float = shapes_curve(0.0, AT_LEAST_0)
    """Weight of the squared log-sum-exp of the router's logits (Zoph et al. 2022,
    arXiv:2202.08906)."""
    freeze_router: bool = shapes_curve(False)
    """Routers keep their weights."""
    token_dispatcher: TokenDispatcher = layout_only(TokenDispatcher.ALLTOALL)
    grouped_gemm: bool = layout_only(True)
    """One kernel for all of a rank's experts."""


@dataclass(kw_only=True)
class Vision:
    """How the parts of a vision-language model are trained, and what it sees."""

    freeze_vision_tower: bool = shapes_curve(True)
    freeze_projector: bool = shapes_curve(False)
    freeze_language_model: bool = shapes_curve(False)
    min_pixels: int | None = shapes_curve(None, AT_LEAST_1)
    """Smaller images are enlarged, where the processor can; absent: its own limit."""
    max_pixels: int | None = shapes_curve(None, AT_LEAST_1)
    """Larger images are shrunk, where the processor can; absent: its own limit."""


class GenerationBackend(StrEnum):
    """What samples the answers that reinforcement learning trains on."""

    TRANSFORMERS = "transformers"
    """The training model itself."""
    VLLM = "vllm"


@dataclass(kw_only=True)
class GenerationResources:
    """What generation has for itself where it is not colocated."""

    num_nodes: int | None = layout_only(None, AT_LEAST_1)
    gpus_per_node: int | None = layout_only(None, AT_LEAST_1)


@dataclass(kw_only=True)
class Colocated:
    """Whether generation and training take turns on the same GPUs."""

    enabled: bool = layout_only(True)
    resources: GenerationResources = layout_only(GenerationResources)


@dataclass(kw_only=True)
class Generation:
    """Sampling answers from the policy."""

    backend: GenerationBackend = layout_only(GenerationBackend.TRANSFORMERS)
    max_new_tokens: int | None = shapes_curve(None, AT_LEAST_1)
    """Tokens of an answer; absent: as many as ``max_total_sequence_length`` leaves."""
    temperature: float = shapes_curve(1.0, POSITIVE)
    """Logits are divided by it."""
    top_p: float = shapes_curve(1.0, Bounds(above=0, maximum=1))
    """Only the likeliest tokens with this total probability are drawn."""
    top_k: int | None = shapes_curve(None, AT_LEAST_1)
    """Only so many of the likeliest tokens are drawn; absent: all."""
    precision: Precision | None = shapes_curve(None)
    """Absent: as ``policy.precision``."""
    tensor_parallel_size: int = layout_only(1, AT_LEAST_1)
    """Ranks that share one copy of the model while it generates."""
    colocated: Colocated = layout_only(Colocated)


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
    """Samples of one optimizer step, over all ranks; ``dpo`` counts pairs, here and below."""
    train_micro_batch_size: int = layout_only(1, AT_LEAST_1)
    """Samples of one forward pass on one rank."""
    max_grad_norm: float = shapes_curve(1.0, AT_LEAST_0)
    """Gradients are scaled down to this global 2-norm; 0 turns clipping off."""
    activation_checkpointing: bool = layout_only(False)
    """Recompute each layer's activations in the backward pass."""
    logits_chunk_size: int | None = layout_only(None, AT_LEAST_1)
    """Positions whose logits exist at once, for large vocabularies; absent: all."""
    torch_compile: bool = layout_only(False)
    """Compile each layer with torch.compile; the first steps then take longer."""
    numeric_twin: int = layout_only(0, AT_LEAST_0)
    """Above 0: move every initial weight by one unit in the last place, up or down as this number
    seeds it. A run and its twin show how far rounding alone takes a curve."""
    sequence_packing: SequencePacking = layout_only(SequencePacking)
    dynamic_batching: DynamicBatching = layout_only(DynamicBatching)
    optimizer: Optimizer = shapes_curve(Optimizer)
    scheduler: Scheduler = shapes_curve(Scheduler)
    lora: Lora | None = shapes_curve(None)
    """Absent: all weights are trained."""
    moe: Moe | None = shapes_curve(None)
    """Absent: the model has no experts."""
    vision: Vision | None = shapes_curve(None)
    """Absent: the model sees only text."""
    generation: Generation | None = shapes_curve(None)
    """Absent: the algorithm samples no answers."""
    warm_start: WarmStart | None = shapes_curve(None)
    """Supervised steps before the first step of another algorithm; absent: none."""

    @property
    def samples_per_pass(self) -> int:
        """Samples of full length in one forward pass of training on one rank."""
        if self.dynamic_batching.enabled:
            tokens = self.dynamic_batching.train_micro_batch_tokens
            return max(1, tokens // self.max_total_sequence_length)
        return self.train_micro_batch_size
