"""Torch backend over pipeline stages: torch.distributed.pipelining around FSDP2 and DTensor.

Each stage holds its own layers, their gradients and optimizer states; one forward, one backward
(Narayanan et al. 2019, "PipeDream"; Narayanan et al. 2021, arXiv:2104.04473, section 2.2.1). It
starts from the weights of the whole model and follows the same curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from evenkeel.recipes.pipeline_stages import layers_of_stages
from evenkeel.recipes.schema import Precision, Recipe
from evenkeel.recipes.support import ON_TORCH_STAGES
from evenkeel.training import models
from evenkeel.training.backends import pipeline_stage, tensor_parallel, torch_state
from evenkeel.training.backends.batch_transfer import moved
from evenkeel.training.backends.fsdp2 import Fsdp2Backend, shard
from evenkeel.training.backends.gradient_norm import clip_to_norm, global_norm
from evenkeel.training.backends.interface import (
    MicroBatchLoss,
    MicroBatchReader,
    Sums,
    add_sums,
)
from evenkeel.training.backends.pipeline_stage import Place, Rows, Schedules
from evenkeel.training.data.batches import MicroBatch
from evenkeel.training.distributed import World

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Report = dict[str, Tensor]


class PipelineBackend(Fsdp2Backend):
    """A stage of a transformers model, over a mesh of (pp, dp, tp) ranks.

    It trains, reads and saves; algorithms that generate are refused (``recipes.support``).
    """

    supported_parallel = ON_TORCH_STAGES

    def __init__(self, recipe: Recipe, config: PretrainedConfig, world: World) -> None:
        """Make this rank's stage.

        Raises:
            InputError: the model cannot be cut into these stages.
        """
        pipeline_stage.check_model(config)
        super().__init__(recipe, config, world)
        features = (config.hidden_size, config.vocab_size)
        self._training = Schedules(self.model, self._stage, self.device, features)
        self._reading = Schedules(_Reading(self), self._stage, self.device, features)
        bf16 = recipe.policy.precision is Precision.BFLOAT16
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._read_output: Callable[[Tensor], None] | None = None

    def _build(self, recipe: Recipe, config: PretrainedConfig) -> PreTrainedModel:
        pp, parallel = self.mesh["pp"], recipe.policy.parallel
        self._stage = place = Place(pp.get_local_rank(), pp.size(), pp.get_group())
        layers = layers_of_stages(
            config.num_hidden_layers,
            place.num_stages,
            parallel.num_layers_in_first_pipeline_stage,
            parallel.num_layers_in_last_pipeline_stage,
        )
        whole = models.build(recipe, config) if self._is_main else None
        if whole is not None:
            self.initial_weights = models.mean_weight_size(whole)
        model = models.build_on_meta(config)
        everything = torch_state.tensors(model)
        pipeline_stage.cut(model, layers[place.index], place)
        shard(model, self.mesh, recipe.policy)
        model.to_empty(device=self.device)
        if place.is_last and config.tie_word_embeddings:  # each end got memory of its own
            model.lm_head.weight = model.get_input_embeddings().weight
        torch_state.spread_to_stages(whole, everything, model, self.device)
        pipeline_stage.give_tensors(model, place)
        return model

    def forward_backward(self, micro_batches: Sequence[MicroBatch], loss: MicroBatchLoss) -> Sums:
        """See ``Backend``: gradients are communicated once, after the last micro-batch."""
        self.model.train()
        batches, rows = self._prepared(micro_batches)
        sums: Sums = {}

        def of_output(output: Tensor, index: int) -> Tensor:
            batch = batches[index]
            share, reported = loss(self._output(output[:, : batch.labels.shape[1]]), batch)
            if index >= len(micro_batches):  # a filler
                return share * 0.0
            add_sums(sums, reported)
            # FSDP averages over data-parallel ranks, and the loss of the global batch is a sum
            return share * self.place.size

        self._training.run(rows, self._dtype, of_output)
        tensor_parallel.finish_pending_sums(self.model)
        self._add_tied_gradients()
        return self._from_last_stage([sums])[0]

    def read(self, micro_batches: Sequence[MicroBatch], reader: MicroBatchReader) -> list[Report]:
        """See ``Backend``."""
        self.model.train(False)
        batches, rows = self._prepared(micro_batches)
        reports: list[Report] = []

        def read_output(output: Tensor) -> None:
            batch = batches[len(reports)]
            reports.append(reader(self._output(output[:, : batch.labels.shape[1]]), batch))

        self._read_output = read_output
        with torch.no_grad():
            self._reading.run(rows, self._dtype)
        self._read_output = None
        return self._from_last_stage(reports[: len(micro_batches)])

    def of_stage(self, given: Tensor, **inputs: Any) -> Tensor:
        """This stage's forward pass while micro-batches are read, where logits do not stay."""
        output: Tensor = self.model(given, **inputs)
        if not self._stage.is_last:
            return output
        assert self._read_output is not None
        self._read_output(output)
        return output.new_zeros(())

    def _prepared(self, micro_batches: Sequence[MicroBatch]) -> tuple[list[MicroBatch], list[Rows]]:
        """On the device, and what stages take of them: one shape for all, one for each stage."""
        batches = [moved(batch, self.device) for batch in micro_batches]
        batches += [batches[-1]] * (self._stage.num_stages - len(batches))
        width = max(batch.input_ids.shape[1] for batch in batches)
        return batches, [Rows(*self._inputs(batch, width)) for batch in batches]

    def _from_last_stage(self, reports: list[Report]) -> list[Report]:
        """What the last stage, which alone has the model's output, reports."""
        box: list[list[Report]] = [
            [{name: x.cpu() for name, x in report.items()} for report in reports]
        ]
        last = self._stage.num_stages - 1
        dist.broadcast_object_list(box, group=self._stage.group, group_src=last)
        return [{name: x.to(self.device) for name, x in report.items()} for report in box[0]]

    @property
    def _tied(self) -> nn.Parameter | None:
        """This rank's copy of an embedding that is the output layer, too."""
        is_end = self._stage.is_first or self._stage.is_last
        if not (is_end and self.model.config.tie_word_embeddings):
            return None
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def _add_tied_gradients(self) -> None:
        """Sum the gradients of the first and the last stage's copy of one weight, on both."""
        if self._tied is None:
            return
        gradient = self._tied.grad
        assert gradient is not None
        mine = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        theirs = torch.empty_like(mine)
        group, peer = self._stage.group, self._stage.num_stages - 1 - self._stage.index
        exchange = [
            dist.P2POp(dist.isend, mine, group=group, group_peer=peer),
            dist.P2POp(dist.irecv, theirs, group=group, group_peer=peer),
        ]
        for work in dist.batch_isend_irecv(exchange):
            work.wait()
        mine.add_(theirs)

    def clip_gradients(self, max_norm: float) -> Tensor:
        """See ``Backend``."""
        trained = [weight for weight in self.model.parameters() if weight.grad is not None]
        counted = [
            weight.grad
            for weight in trained
            if self._stage.is_first or weight is not self._tied  # the first stage's copy counts
        ]
        squares = global_norm([gradient for gradient in counted if gradient is not None], self.mesh)
        squares = squares.square()
        dist.all_reduce(squares, group=self._stage.group)
        norm = squares.sqrt()
        if max_norm > 0:
            gradients = [weight.grad for weight in trained if weight.grad is not None]
            clip_to_norm(gradients, norm, max_norm)
        return norm

    def save(self, folder: Path) -> None:
        """See ``Backend``."""
        torch_state.save(folder, self.model, self.optimizer, stages=self._stage.group)


class _Reading(nn.Module):
    """What the schedule runs while micro-batches are read."""

    def __init__(self, backend: PipelineBackend) -> None:
        super().__init__()
        self._of_stage = backend.of_stage

    def forward(self, given: Tensor, **inputs: Any) -> Tensor:
        """See ``PipelineBackend.of_stage``."""
        return self._of_stage(given, **inputs)
