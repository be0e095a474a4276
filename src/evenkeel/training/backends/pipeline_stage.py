"""One stage of a transformers model, and the schedule that runs micro-batches through all stages.

A stage is the model itself with modules that pass their input on in place of what other stages
hold. Weights keep the whole model's names, so that a checkpoint does not depend on the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from evenkeel.recipes.model_support import check_stages

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Place:
    """Where in the pipeline this rank is."""

    index: int
    num_stages: int
    group: dist.ProcessGroup
    """One rank of each stage."""

    @property
    def is_first(self) -> bool:
        """Whether it has the embedding."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether it has the output layer."""
        return self.index == self.num_stages - 1


class PassThrough(nn.Module):
    """In place of a module of another stage."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Give back what came."""
        return hidden_states


def check_model(config: PretrainedConfig) -> None:
    """Raise an error for a model that cannot be cut into stages.

    Raises:
        InputError: its type is unknown here.
    """
    check_stages(config.model_type)


def cut(model: PreTrainedModel, layers: range, place: Place) -> None:
    """Leave of the whole ``model`` what the stage holds, in place.

    The last stage keeps an embedding that is its output layer, too.
    """
    body: Any = model.model
    for index in range(len(body.layers)):
        if index not in layers:
            body.layers[index] = PassThrough()
    keeps_embedding = place.is_first or (place.is_last and model.config.tie_word_embeddings)
    if not keeps_embedding:
        body.embed_tokens = PassThrough()
    if not place.is_last:
        body.norm = PassThrough()
        model.lm_head = PassThrough()


def give_tensors(model: PreTrainedModel, place: Place) -> None:
    """Let ``model`` take token ids or hidden states, and give hidden states or logits."""
    name = "input_ids" if place.is_first else "inputs_embeds"
    run, made = (model.forward, "logits") if place.is_last else (model.model, "last_hidden_state")
    # on ``forward``, not as a wrapping module: names of weights stay, and FSDP sees its module
    model.forward = partial(_forward, run, name, made)


def _forward(run: Callable[..., Any], name: str, made: str, given: Tensor, **inputs: Any) -> Tensor:
    output: Tensor = getattr(run(**{name: given}, use_cache=False, **inputs), made)
    return output


@dataclass(frozen=True)
class Rows:
    """What a micro-batch brings to every stage."""

    input_ids: Tensor
    """(batch, seq)."""
    inputs: dict[str, Any]
    """Further arguments of the model."""


class Schedules:
    """1F1B (Narayanan et al. 2019, "PipeDream") over micro-batches of any number and shape.

    A schedule of torch is made for one number of micro-batches and one shape; those made are kept.
    """

    def __init__(
        self, module: nn.Module, place: Place, device: torch.device, features: tuple[int, int]
    ) -> None:
        """For the stage ``module``.

        Args:
            module: the stage, as ``give_tensors`` left it.
            place: of this rank.
            device: of its weights.
            features: hidden size and size of the vocabulary.
        """
        self._module, self._place, self._device = module, place, device
        self._hidden, self._vocabulary = features
        self._made: dict[
            tuple[int, torch.Size, torch.dtype, bool], tuple[PipelineStage, Schedule1F1B]
        ] = {}
        self._loss: Callable[[Tensor, int], Tensor] | None = None

    def run(
        self,
        rows: Sequence[Rows],
        dtype: torch.dtype,
        loss: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        """Forward and, with ``loss``, backward through all stages.

        Args:
            rows: the micro-batches, all of one shape, one for each stage at least.
            dtype: of hidden states.
            loss: of the output of the last stage for the micro-batch with this index.
        """
        self._loss = loss
        shape = rows[0].input_ids.shape
        key = (len(rows), shape, dtype, loss is not None)
        if key not in self._made:
            self._made[key] = self._make(*key)
        stage, schedule = self._made[key]
        schedule.step(
            arg_mbs=[(each.input_ids,) for each in rows] if self._place.is_first else None,
            kwarg_mbs=[each.inputs for each in rows],
            target_mbs=list(range(len(rows))),
            return_outputs=False,
        )
        stage.clear_runtime_states()  # until the next step of this shape it would hold tensors
        self._loss = None

    def _loss_of(self, output: Tensor, index: int) -> Tensor:
        assert self._loss is not None
        return self._loss(output, index)

    def _make(
        self, num_micro_batches: int, shape: torch.Size, dtype: torch.dtype, trains: bool
    ) -> tuple[PipelineStage, Schedule1F1B]:
        place = self._place

        def example(features: int) -> Tensor:
            return torch.empty(*shape, features, dtype=dtype, device="meta", requires_grad=trains)

        ids = torch.empty(shape, dtype=torch.int64, device="meta")
        stage = PipelineStage(
            self._module,
            place.index,
            place.num_stages,
            self._device,
            input_args=ids if place.is_first else example(self._hidden),
            output_args=example(self._vocabulary if place.is_last else self._hidden),
            group=place.group,
        )
        schedule = Schedule1F1B(
            stage,
            num_micro_batches,
            loss_fn=self._loss_of if trains else None,
            scale_grads=False,  # the loss of the global batch is a sum
        )
        return stage, schedule
