"""The megatron backend: megatron-core's models, schedules and optimizer behind ``Backend``.

Narayanan et al. 2021, arXiv:2104.04473. It takes the same recipe as the torch backend, starts from
the same weights and follows the same curve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from evenkeel.errors import InputError
from evenkeel.recipes.schema import Precision, Recipe
from evenkeel.training import models
from evenkeel.training.backends.decoding import Decoder, RecomputingDecoder, last_logits_by
from evenkeel.training.backends.interface import (
    Backend,
    MicroBatchLoss,
    MicroBatchReader,
    ModelOutput,
    Sums,
    T,
    add_sums,
)
from evenkeel.training.backends.megatron import (
    cpu_shim,
    decoding,
    distributed_checkpoint,
    layout,
    mixture,
    model_chunks,
    rows,
    weights,
)
from evenkeel.training.backends.megatron.architecture import architecture
from evenkeel.training.backends.megatron.decoding import ContextDecoder
from evenkeel.training.backends.megatron.optimizer import DistributedAdamW
from evenkeel.training.backends.megatron.output import SharedOutput
from evenkeel.training.backends.megatron.rows import Inputs, Rows
from evenkeel.training.backends.megatron.vision_architecture import vision_architecture
from evenkeel.training.data.batches import MicroBatch
from evenkeel.training.distributed import World

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Report = dict[str, Tensor]
AnyInputs = TypeVar("AnyInputs", bound=Inputs)


class MegatronBackend(Backend):
    """A GPT or LLaVA model over tensor, pipeline, context, expert and data parallel ranks."""

    def __init__(self, recipe: Recipe, config: PretrainedConfig, world: World) -> None:
        """Make the process groups and the model.

        Raises:
            InputError: this backend cannot train what the recipe describes.
        """
        self._policy = policy = recipe.policy
        self.device = world.device
        if world.device.type == "cpu":
            cpu_shim.apply(cpu_shim.PATCHES)
        if not model_chunks.uses_transformer_engine(world.device):
            cpu_shim.apply(cpu_shim.WITHOUT_ENGINE)
        self._architecture = architecture(config, policy, world.device)
        self._layout = layout.join_groups(policy.parallel, world)
        self.place = self._layout.place
        self._hf_config = config
        vision = vision_architecture(config, policy, world.device)
        self.chunks = model_chunks.build(
            self._architecture, self._layout, policy, world.device, vision
        )
        whole = models.build(recipe, config) if world.is_main else None
        if whole is not None:
            self.initial_weights = models.mean_weight_size(whole)
        state = None if whole is None else whole.state_dict()
        precise = weights.spread(state, self.chunks, config)
        self._modules = model_chunks.in_precision(self.chunks, self._architecture.config)
        # a model that is never trained needs neither gradients nor moments
        self._precise: list[weights.Named] | None = (
            precise if policy.precision is not Precision.FLOAT32 else None
        )
        self._optimizer: DistributedAdamW | None = None
        self._multiple = rows.sequence_multiple(policy.parallel)

    @property
    def optimizer(self) -> DistributedAdamW:
        """Made, like the buffers for gradients, when it is first needed."""
        if self._optimizer is None:
            self._modules = model_chunks.wrap(self._modules, self._architecture.config)
            self._optimizer = DistributedAdamW(
                self._modules, self._policy, tied=self._architecture.tied
            )
            if self._precise is not None:
                self._optimizer.start_from(self._precise)
            self._precise = None
        return self._optimizer

    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: MicroBatchLoss) -> Sums:
        """See ``Backend``: the pipeline's schedule decides the order."""
        self.optimizer.forget_gradients()
        # the schedule averages over micro-batches and data-parallel ranks; the loss is a sum
        scale = self._layout.num_passes(len(micro_batches)) * self.place.size

        def scaled(output: ModelOutput, batch: MicroBatch) -> tuple[Tensor, Report]:
            share, reported = loss(output, batch)
            return share * scale, reported

        sums: Sums = {}
        for report in self._run(micro_batches, scaled, train=True):
            add_sums(sums, report)
        return sums

    def read(
        self, micro_batches: Sequence[MicroBatch], reader: MicroBatchReader
    ) -> list[dict[str, Tensor]]:
        """See ``Backend``."""

        def without_loss(output: ModelOutput, batch: MicroBatch) -> tuple[Tensor, Report]:
            return output.logits.new_zeros(()), reader(output, batch)

        with torch.no_grad():
            return self._run(micro_batches, without_loss, train=False)

    def _run(
        self,
        micro_batches: Sequence[MicroBatch],
        loss: Callable[[ModelOutput, MicroBatch], tuple[Tensor, Report]],
        train: bool,
    ) -> list[Report]:
        """One report per micro-batch, on every stage of the pipeline."""
        for module in self._modules:
            module.train(train)
        share, lengths = self._layout.share, self._lengths(micro_batches)
        prepared = [
            rows.prepared(batch, length, share, self.device)
            for batch, length in zip(micro_batches, lengths, strict=True)
        ]
        num_passes = self._layout.num_passes(len(prepared))
        prepared += [replace(prepared[-1], is_filler=True)] * (num_passes - len(prepared))

        def of_output(logits: Tensor, mine: Rows) -> tuple[Tensor, Report]:
            share, report = loss(self._output(logits, mine), mine.batch)
            return share * 0.0 if mine.is_filler else share, report

        reports = self._schedule(prepared, of_output, train=train)
        return self._layout.from_last_stage(reports[: len(micro_batches)], self.device)

    def _lengths(self, micro_batches: Sequence[MicroBatch]) -> list[int]:
        """Of the rows of each micro-batch, with padding."""
        lengths = [batch.input_ids.shape[1] for batch in micro_batches]
        lengths = [length + -length % self._multiple for length in lengths]
        if mixture.gathers_tokens(self._hf_config, self._policy):
            return layout.common_lengths(lengths, self.device)
        return lengths

    def _schedule(
        self,
        passes: Sequence[AnyInputs],
        of_output: Callable[[Tensor, AnyInputs], tuple[Tensor, Report]],
        train: bool,
        **options: Any,
    ) -> list[Report]:
        """One report per pass, on the last stage of the pipeline; ``options`` are the model's."""
        shapes = {each.shape for each in passes}
        # stages tell each other the shape of each micro-batch only where shapes differ
        self._architecture.config.variable_seq_lengths = len(shapes) > 1

        def step(inputs: Iterator[AnyInputs], module: nn.Module) -> tuple[Tensor, Any]:
            mine = next(inputs)
            seen = {} if mine.images is None else {"images": mine.images}
            out = module(mine.input_ids, mine.position_ids, mine.attention_mask, **seen, **options)
            return out, lambda logits: of_output(logits, mine)

        reports: list[Report] = get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=[iter(passes) for _ in self._modules],
            model=self._modules,
            num_microbatches=len(passes),
            seq_length=passes[0].shape[1],
            micro_batch_size=passes[0].shape[0],
            forward_only=not train,
        )
        return reports

    @contextmanager
    def decoder(self) -> Iterator[Decoder]:
        """See ``Backend``: each stage keeps the keys and values of its own layers.

        Raises:
            InputError: attention could not leave padding out.
        """
        if not model_chunks.takes_masks(self._policy, self.device):
            raise InputError("the recipe has no section policy.generation", fix="add one")
        if self._layout.share.size > 1:  # one token cannot be shared out along the sequence
            yield RecomputingDecoder(partial(last_logits_by, self.read))
            return
        for module in self._modules:
            module.train(False)
        with torch.no_grad(), decoding.whole_sequences(self.chunks):
            yield ContextDecoder(self._next_logits, self.device)

    def _next_logits(self, inputs: Inputs, context: StaticInferenceContext) -> Tensor:
        def last(logits: Tensor, _: Inputs) -> tuple[Tensor, Report]:
            return logits.new_zeros(()), {"last": logits[:, -1].float()}

        # more passes than one, for interleaving, write the same keys and values again
        passes = [inputs] * self._layout.num_passes(1)
        options = {"inference_context": context, "runtime_gather_output": True}
        reports = self._schedule(passes, last, train=False, **options)
        return self._layout.from_last_stage(reports[:1], self.device)[0]["last"]

    def _output(self, logits: Tensor, mine: Rows) -> ModelOutput:
        return SharedOutput(
            logits,
            seq=mine.batch.input_ids.shape[1],
            group=parallel_state.get_tensor_model_parallel_group(),
            share=self._layout.share,
        )

    def clip_gradients(self, max_norm: float) -> Tensor:
        """See ``Backend``."""
        return self.optimizer.clip_gradients(max_norm, self.device)

    def step(self, learning_rate: float) -> None:
        """See ``Backend``."""
        self.optimizer.step(learning_rate)

    def reset_optimizer(self) -> None:
        """See ``Backend``."""
        self.optimizer.forget_states()

    def freeze(self) -> None:
        """See ``Backend``: bf16 weights are all that is left, of a model that was trained, too."""
        self._precise = None
        if self._optimizer is not None:
            self._modules = model_chunks.unwrapped(self._modules)
            self._optimizer = None

    def reduce_sums(self, sums: Mapping[str, float | Tensor]) -> dict[str, float]:
        """See ``Backend``."""
        values = [torch.as_tensor(value, dtype=torch.float64) for value in sums.values()]
        vector = torch.stack([value.to(self.device) for value in values])
        if self.place.size > 1:
            dist.all_reduce(vector, group=parallel_state.get_data_parallel_group())
        return dict(zip(sums, vector.tolist(), strict=True))

    def gather(self, items: Sequence[T]) -> list[T]:
        """See ``Backend``."""
        if self.place.size == 1:
            return list(items)
        found: list[Sequence[T]] = [()] * self.place.size
        dist.all_gather_object(found, list(items), group=parallel_state.get_data_parallel_group())
        return [item for part in found for item in part]

    def save(self, folder: Path) -> None:
        """See ``Backend``: megatron-core's ``dist_checkpointing``."""
        distributed_checkpoint.save(folder, self.chunks, self.optimizer)

    def load(self, folder: Path) -> None:
        """See ``Backend``."""
        distributed_checkpoint.load(folder, self.chunks, self.optimizer)

    def save_weights(self, folder: Path) -> None:
        """See ``Backend``."""
        distributed_checkpoint.save(folder, self.chunks)

    def load_weights(self, folder: Path) -> None:
        """See ``Backend``."""
        distributed_checkpoint.load(folder, self.chunks)
        self._precise = None

    def copy_weights(self, other: Self) -> None:
        """See ``Backend``."""
        with torch.no_grad():
            for mine, theirs in zip(self.chunks, other.chunks, strict=True):
                pairs = zip(mine.parameters(), theirs.parameters(), strict=True)
                for weight, source in pairs:
                    weight.copy_(source)
        self._precise = None
        if self._optimizer is not None:
            self._optimizer.library.reload_model_params()

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See ``Backend``: one weight is whole at a time."""
        return weights.gather(self.chunks, self._hf_config)
