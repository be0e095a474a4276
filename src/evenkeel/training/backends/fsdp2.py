"""Torch backend: FSDP2 (``fully_shard``) over data-parallel ranks, DTensor tensor parallelism.

Zhao et al. 2023, arXiv:2304.11277. Parameters, gradients and optimizer states are fp32 and
sharded; with bf16 the forward and backward passes compute in bf16 and gradients are summed in
fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from evenkeel.recipes.schema import Policy, Precision, Recipe
from evenkeel.recipes.support import ON_TORCH, check_parallel
from evenkeel.training import attention, models, shared_prompts, vision_model
from evenkeel.training.backends import (
    chunked_head,
    compiled_layers,
    lora,
    tensor_parallel,
    torch_state,
)
from evenkeel.training.backends.batch_transfer import moved
from evenkeel.training.backends.chunked_head import ChunkedOutput
from evenkeel.training.backends.decoding import (
    CachingDecoder,
    Decoder,
    RecomputingDecoder,
    last_logits_by,
)
from evenkeel.training.backends.gradient_norm import clip_to_norm, global_norm
from evenkeel.training.backends.interface import (
    Backend,
    DataParallelPlace,
    MicroBatchLoss,
    MicroBatchReader,
    ModelOutput,
    Sums,
    T,
    add_sums,
)
from evenkeel.training.backends.optimizer import adamw
from evenkeel.training.data.batches import MicroBatch
from evenkeel.training.distributed import World
from evenkeel.training.shared_prompts import SharedPrompts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Fsdp2Backend(Backend):
    """A transformers model over a mesh of (dp, tp) ranks."""

    supported_parallel = ON_TORCH

    def __init__(self, recipe: Recipe, config: PretrainedConfig, world: World) -> None:
        self._policy = policy = recipe.policy
        check_parallel(policy, self.supported_parallel)
        self.device = world.device
        self.mesh = world.mesh(policy.parallel)
        self.place = DataParallelPlace(self.mesh["dp"].get_local_rank(), self.mesh["dp"].size())
        self._is_main = world.is_main
        self._tensor_rank = self.mesh["tp"].get_local_rank()
        # with sequence parallelism each rank works on an equal share of a row's tokens
        shares_sequence = policy.parallel.sequence_parallel and self.mesh["tp"].size() > 1
        self._row_multiple = self.mesh["tp"].size() if shares_sequence else 1
        self.model = self._build(recipe, config)
        self._head = chunked_head.install(self.model, policy)
        self._attends_per_sample = attention.attends_per_sample(policy, self.device)
        if self._attends_per_sample:
            attention.install_per_sample(self.model)
        self._shares_prompts = shared_prompts.can_share(recipe, config, self.device)
        if self._shares_prompts:
            shared_prompts.install(self.model)
        self._trains_updates = policy.lora is not None
        self._optimizer_settings = policy.optimizer
        self.reset_optimizer()

    def _build(self, recipe: Recipe, config: PretrainedConfig) -> PreTrainedModel:
        if self.mesh.size() == 1:
            model = models.build(recipe, config)
            self.initial_weights = models.mean_weight_size(model)
            vision_model.freeze(model, recipe.policy.vision)
            lora.attach(model, recipe.policy, recipe.seed)
            nn.Module.to(model, self.device)
            shard(model, self.mesh, recipe.policy)
            return model
        whole = models.build(recipe, config) if self._is_main else None
        if whole is not None:
            self.initial_weights = models.mean_weight_size(whole)
            lora.attach(whole, recipe.policy, recipe.seed)
        model = models.build_on_meta(config)
        vision_model.freeze(model, recipe.policy.vision)
        lora.attach(model, recipe.policy, recipe.seed)
        shard(model, self.mesh, recipe.policy)
        model.to_empty(device=self.device)
        torch_state.spread_weights(whole, model, self.device)
        return model

    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: MicroBatchLoss) -> Sums:
        """See ``Backend``: gradients are communicated once, with the last micro-batch."""
        self.model.train()
        sums: Sums = {}
        for index, batch in enumerate(micro_batches):
            batch = moved(batch, self.device)
            if isinstance(self.model, FSDPModule):
                self.model.set_requires_gradient_sync(index == len(micro_batches) - 1)
            share, reported = loss(self._run(batch), batch)
            # FSDP averages over data-parallel ranks, and the loss of the global batch is a sum
            torch.autograd.backward(share * self.place.size)
            add_sums(sums, reported)
        tensor_parallel.finish_pending_sums(self.model)
        return sums

    def read(
        self, micro_batches: Sequence[MicroBatch], reader: MicroBatchReader
    ) -> list[dict[str, Tensor]]:
        """See ``Backend``."""
        self.model.train(False)
        with torch.no_grad():
            batches = (moved(batch, self.device) for batch in micro_batches)
            return [reader(self._run(batch), batch) for batch in batches]

    def _run(self, batch: MicroBatch) -> ModelOutput:
        """Logits of (batch, seq, vocabulary).

        Rows are padded on the right, where causal attention never looks: without packing the
        model needs no mask.
        """
        if self._shares_prompts and batch.shared is not None:
            return self._run_shared(batch, batch.shared)
        seq = batch.input_ids.shape[1]
        input_ids, inputs = self._inputs(batch, seq + -seq % self._row_multiple)
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False, **inputs).logits
        return self._output(logits[:, :seq])

    def _inputs(self, batch: MicroBatch, width: int) -> tuple[Tensor, dict[str, Any]]:
        """Ids of (batch, width), and the model's other arguments for rows of that width."""
        extra = width - batch.input_ids.shape[1]
        input_ids = nn.functional.pad(batch.input_ids, (0, extra))
        inputs: dict[str, Any] = {
            **vision_model.forward_inputs(self.model, input_ids, batch.images)
        }
        if batch.segment_ids is not None:
            segment_ids = nn.functional.pad(batch.segment_ids, (0, extra), value=-1)
            inputs["attention_mask"] = attention.block_diagonal_causal_mask(segment_ids)
            if self._attends_per_sample and width >= attention.MIN_POSITIONS:
                inputs["sample_lengths"] = attention.sample_lengths(segment_ids)
            inputs["position_ids"] = nn.functional.pad(batch.position_ids, (0, extra))
        return input_ids, inputs

    def _run_shared(self, batch: MicroBatch, shared: SharedPrompts) -> ModelOutput:
        """The same, with every prompt in the model once."""
        logits: Tensor = self.model(
            input_ids=batch.input_ids.flatten()[shared.sources][None],
            position_ids=shared.position_ids,
            attention_mask=shared_prompts.NOWHERE,
            shared=shared,
            use_cache=False,
        ).logits
        of_rows = logits[0].index_select(0, shared.places.flatten())
        return self._output(of_rows.view(*shared.places.shape, -1))

    def _output(self, logits: Tensor) -> ModelOutput:
        if self._head is not None:
            return ChunkedOutput(logits, self._head)  # hidden states, in fact
        return ModelOutput(logits)

    @contextmanager
    def decoder(self) -> Iterator[Decoder]:
        """See ``Backend``: weights are gathered once for all tokens, over data-parallel ranks."""
        self.model.train(False)
        whole_logits = nullcontext() if self._head is None else self._head.in_place()
        eager = compiled_layers.uncompiled(self._policy)
        with torch.no_grad(), gathered(self.model), whole_logits, eager:
            if self._row_multiple > 1:  # one token cannot be shared out along the sequence
                yield RecomputingDecoder(partial(last_logits_by, self.read))
            else:
                yield CachingDecoder(self.model, self.device)

    def clip_gradients(self, max_norm: float) -> Tensor:
        """See ``Backend``."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = global_norm(gradients, self.mesh)
        if max_norm > 0:
            clip_to_norm(gradients, norm, max_norm)
        return norm

    def step(self, learning_rate: float) -> None:
        """See ``Backend``."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
            for weight in group["params"]:
                if weight.grad is None:
                    # not used by this batch, such as an expert without tokens or the last layers
                    # of a vision tower: its moments belong into a checkpoint all the same
                    weight.grad = torch.zeros_like(weight)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def reset_optimizer(self) -> None:
        """See ``Backend``."""
        self.optimizer = adamw(self.model, self._optimizer_settings)

    def reduce_sums(self, sums: Mapping[str, float | Tensor]) -> dict[str, float]:
        """See ``Backend``: one collective and one read from the device."""
        values = [torch.as_tensor(value, dtype=torch.float64) for value in sums.values()]
        if len({value.device for value in values}) > 1:
            values = [value.to(self.device) for value in values]
        vector = torch.stack(values)
        if self.place.size > 1:
            vector = vector.to(self.device)
            dist.all_reduce(vector, group=self.mesh["dp"].get_group())
        return dict(zip(sums, vector.tolist(), strict=True))

    def gather(self, items: Sequence[T]) -> list[T]:
        """See ``Backend``."""
        if self.place.size == 1:
            return list(items)
        found: list[Sequence[T]] = [()] * self.place.size
        dist.all_gather_object(found, list(items), group=self.mesh["dp"].get_group())
        return [item for part in found for item in part]

    def save(self, folder: Path) -> None:
        """See ``Backend``: torch.distributed.checkpoint, one file per rank."""
        torch_state.save(folder, self.model, self.optimizer, trained_only=self._trains_updates)

    def load(self, folder: Path) -> None:
        """See ``Backend``."""
        torch_state.load(folder, self.model, self.optimizer, trained_only=self._trains_updates)

    def save_weights(self, folder: Path) -> None:
        """See ``Backend``."""
        torch_state.save(folder, self.model)

    def load_weights(self, folder: Path) -> None:
        """See ``Backend``."""
        torch_state.load(folder, self.model)

    def copy_weights(self, other: Self) -> None:
        """See ``Backend``."""
        with torch.no_grad():
            pairs = zip(self.model.parameters(), other.model.parameters(), strict=True)
            for mine, theirs in pairs:
                mine.copy_(theirs)

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See ``Backend``: one weight is whole at a time, its low-rank update added."""
        state = self.model.state_dict()

        def whole(name: str) -> Tensor:
            value: Tensor = state[name]
            return value.full_tensor() if isinstance(value, DTensor) else value

        for name in state:
            if name.endswith(lora.UPDATES):
                continue
            parts = [name, *(name.removesuffix(".weight") + update for update in lora.UPDATES)]
            weights = {part: whole(part) for part in parts if part in state}
            yield name, lora.merged_weight(self.model, name, weights)


def shard(model: PreTrainedModel, mesh: DeviceMesh, policy: Policy) -> None:
    """Compiling, recomputation, tensor parallelism, then sharding, in place, also on meta.

    Raises:
        InputError: the model cannot be split as the recipe asks.
    """
    blocks = [block for _, block in models.transformer_blocks(model)]
    compiled_layers.install(blocks, policy, mesh.device_type)
    if policy.activation_checkpointing:
        for block in blocks:
            _recompute(block)
    tensor_parallel.check_model(model, policy.parallel)
    if mesh["tp"].size() > 1:
        tensor_parallel.parallelize(model, mesh["tp"], policy.parallel.sequence_parallel)
    bf16 = policy.precision is Precision.BFLOAT16
    if mesh["dp"].size() == 1 and not bf16:
        return  # nothing to shard and nothing to cast
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32
    )
    for block in blocks:
        fully_shard(block, mesh=mesh["dp"], mp_policy=precision)
    fully_shard(cast(nn.Module, model), mesh=mesh["dp"], mp_policy=precision)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Hold all weights of this rank's tensor-parallel share, so that no forward pass gathers."""
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def _recompute(block: nn.Module) -> None:
    # on ``forward``, not as a wrapping module: names of weights stay, and FSDP's hooks, which
    # run around ``forward``, are not repeated in the backward pass
    forward: Callable[..., Any] = block.forward
    block.forward = partial(checkpoint, forward, use_reentrant=False)
