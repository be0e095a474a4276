"""Tensor parallelism of transformers' decoder models as a DTensor plan.

Column-wise, then row-wise (Shoeybi et al. 2019, arXiv:1909.08053): query/key/value and gate/up
are split by output, out/down by input, so one all-reduce closes each half of a layer. With
sequence parallelism (Korthikanti et al. 2022, arXiv:2205.05198) that all-reduce becomes a
reduce-scatter along the sequence, and norms and residuals work on a rank's share of the tokens.
Experts of a mixture stay whole, and the ranks share them out (``expert_parallel``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleInputOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from evenkeel.errors import InputError
from evenkeel.recipes.model_support import check_tensor_ranks
from evenkeel.recipes.schema import Parallel
from evenkeel.training.backends import expert_parallel
from evenkeel.training.backends.expert_parallel import WholeExperts, holds_experts
from evenkeel.training.models import text_blocks, text_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEQUENCE_DIM = 1
HEADS_DIM = 2

COLUMN_WISE = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
ROW_WISE = {"o_proj", "down_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}
"""Norms over each head's features: they see this rank's heads only, so that the gradient of their
weight is a partial sum."""
LAYER_NORMS = {
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
}


def check_model(model: PreTrainedModel, parallel: Parallel) -> None:
    """Raise an error where ranks cannot share the model as the recipe asks.

    Raises:
        InputError: its sizes are no multiples, or its experts cannot be shared out so.
    """
    text = model.config.get_text_config()
    expert_parallel.check_supported(model, text, parallel)
    if parallel.tensor_parallel_size > 1:
        splits_mlp = expert_parallel.has_dense_layers(model)
        check_divisible(text, parallel.tensor_parallel_size, text.vocab_size, splits_mlp=splits_mlp)


def check_divisible(config: Any, size: int, vocabulary: int, *, splits_mlp: bool = True) -> None:
    """Raise an error where the model cannot be split evenly.

    Args:
        config: of the language model.
        size: ranks that share each matrix.
        vocabulary: how many tokens it has.
        splits_mlp: whether a layer has a feed-forward part of ``intermediate_size`` that is split.

    Raises:
        InputError: heads, the MLP or the vocabulary are not multiples of ``size``.
    """
    check_tensor_ranks(
        size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        intermediate_size=config.intermediate_size if splits_mlp else None,
        vocab_size=vocabulary,
    )


def parallelize(model: nn.Module, mesh: DeviceMesh, sequence_parallel: bool) -> None:
    """Replace the split weights of ``model`` by DTensors on ``mesh``, in place.

    Norms without sequence parallelism stay plain tensors: every rank computes the same gradient
    for them. So does the vision tower of a vision-language model: only its language model is split.

    Raises:
        InputError: a layer has a linear module that the plan does not know.
    """
    embedding, head = _input_embedding(model), _output_embedding(model)
    tied = embedding is not None and head is not None and head.weight is embedding.weight
    for name, block in text_blocks(model):
        parallelize_module(block, mesh, _block_plan(name, block, sequence_parallel))
    for path, style in _ends_plan(model, sequence_parallel).items():
        parallelize_module(model, mesh, {path: style})
    if tied:  # each end got a DTensor of its own
        head.weight = embedding.weight  # type: ignore[union-attr]


def _block_plan(name: str, block: nn.Module, sequence_parallel: bool) -> dict[str, ParallelStyle]:
    plan: dict[str, ParallelStyle] = {}
    outer = Shard(SEQUENCE_DIM) if sequence_parallel else Replicate()
    is_mixture = False
    for path, module in block.named_modules():
        last = path.rpartition(".")[2]
        if last in COLUMN_WISE:
            plan[path] = ColwiseParallel()
        elif last in ROW_WISE:
            plan[path] = RowwiseParallel(output_layouts=outer)
        elif last in HEAD_NORMS:
            plan[path] = SequenceParallel(sequence_dim=HEADS_DIM, use_local_output=True)
        elif last in LAYER_NORMS and sequence_parallel:
            plan[path] = SequenceParallel(use_local_output=True)
        elif holds_experts(module):
            plan[path], is_mixture = WholeExperts(), True
        elif isinstance(module, nn.Linear):
            raise InputError(
                f"tensor parallelism does not know how to split {name}.{path}",
                fix="set policy.parallel.tensor_parallel_size=1",
            )
    if sequence_parallel:
        plan["self_attn"] = PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": outer},
            desired_input_kwarg_layouts={"hidden_states": Replicate()},
            use_local_output=True,
        )
        plan["mlp"] = PrepareModuleInput(
            input_layouts=(outer,), desired_input_layouts=(Replicate(),), use_local_output=True
        )
    if sequence_parallel and is_mixture:  # which gives the sum of all experts, of all tokens
        plan["mlp"] = PrepareModuleInputOutput(
            input_layouts=(outer,),
            desired_input_layouts=(Replicate(),),
            use_local_input=True,
            output_layouts=(Replicate(),),
            desired_output_layouts=(outer,),
            use_local_output=True,
        )
    return plan


def _ends_plan(model: nn.Module, sequence_parallel: bool) -> dict[str, ParallelStyle]:
    outer = Shard(SEQUENCE_DIM) if sequence_parallel else Replicate()
    paths = {id(module): path for path, module in model.named_modules()}
    plan: dict[str, ParallelStyle] = {}
    embedding, head = _input_embedding(model), _output_embedding(model)
    if embedding is not None:
        # The model measures the sequence and makes its mask from what the embedding gives, so it
        # stays whole here; the first layer takes its share.
        plan[paths[id(embedding)]] = RowwiseParallel(
            input_layouts=Replicate(), output_layouts=Replicate()
        )
    if sequence_parallel:
        first = next(name for name, _ in text_blocks(model))
        plan[first] = PrepareModuleInput(
            input_layouts=(Replicate(),), desired_input_layouts=(outer,), use_local_output=True
        )
        plan[f"{text_prefix(model)}norm"] = SequenceParallel(use_local_output=True)
    if head is not None:
        plan[paths[id(head)]] = ColwiseParallel(input_layouts=outer, output_layouts=Replicate())
    return plan


def _input_embedding(model: nn.Module) -> nn.Module | None:
    return _with_weight(model.get_input_embeddings())  # type: ignore[operator]


def _output_embedding(model: nn.Module) -> nn.Module | None:
    return _with_weight(model.get_output_embeddings())  # type: ignore[operator]


def _with_weight(module: nn.Module | None) -> nn.Module | None:
    """None where another stage of a pipeline holds it."""
    return module if hasattr(module, "weight") else None


def finish_pending_sums(model: nn.Module) -> None:
    """Give every gradient the placements of its weight.

    Under sequence parallelism a norm's gradient is a sum over this rank's tokens only, and DTensor
    leaves it pending (``Partial``); where FSDP is on, it has done this already.
    """
    for weight in model.parameters():
        gradient = weight.grad
        if not (isinstance(gradient, DTensor) and isinstance(weight, DTensor)):
            continue
        if gradient.placements != weight.placements:
            weight.grad = gradient.redistribute(placements=weight.placements)
