"""Rows that begin alike pass through the model with their beginning computed once.

The answers of a group follow one prompt, and up to its end all that a causal model computes of
them, forward and backward, is the same (Liu et al. 2025, "Prefix Grouper", arXiv:2506.05433). Here
the prompts and what follows them lie one after the other in a single row; each layer but attention
works on positions by themselves and does not notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evenkeel.recipes.schema import Algorithm, Recipe

Indices = npt.NDArray[np.int64]

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SHARING = "sdpa_shared_prompts"
"""What transformers calls ``attend``."""

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma")
"""Decoders whose attention gets all arguments of the forward pass; held to the plain pass by
``tests/unit/training/test_shared_prompts.py``."""

MIN_SAVED = 0.2
"""Share of a micro-batch's positions that must drop out; below it copying costs what it saves."""


@dataclass(frozen=True)
class SharedPrompts:
    """Where the positions of a micro-batch's rows are when every prompt is there once.

    First come P positions of each of G prompts, then S positions of what follows in each of R rows.
    """

    prompt_of_row: Tensor
    """(R,): which of the prompts it begins with."""
    sources: Tensor
    """(G·P + R·S,): the place in the flattened rows that each position comes from."""
    position_ids: Tensor
    """(1, G·P + R·S)."""
    places: Tensor
    """(R, seq): where each of the rows' positions is; padding is anywhere."""
    mask: Tensor
    """(R or 1, 1, S, P + S), True where a position after a prompt looks: there, and back."""
    num_prompts: int
    """G."""
    width: int
    """P."""

    def split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(1, heads, G·P + R·S, features) → (G, heads, P, features), (R, heads, S, features)."""
        _, heads, _, features = states.shape
        prompts, rest = states[0].tensor_split([self.num_prompts * self.width], dim=1)
        return (
            prompts.reshape(heads, self.num_prompts, self.width, features).transpose(0, 1),
            rest.reshape(heads, len(self.prompt_of_row), -1, features).transpose(0, 1),
        )


def shared_prompts(
    input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> SharedPrompts | None:
    """How the rows of a micro-batch share their prompts; None where it would not pay.

    A row's prompt ends where its first trained label is.

    Args:
        input_ids: (rows, seq), padded on the right, one sample a row.
        attention_mask: (rows, seq), 1 on tokens.
        labels: (rows, seq), negative where nothing is trained.
    """
    trained = (labels >= 0).numpy()
    lengths = attention_mask.sum(dim=1).numpy()
    num_rows, seq = trained.shape
    ends = np.where(trained.any(axis=1), trained.argmax(axis=1) + 1, lengths)[:, None]
    prompt_of_row, first_rows = _numbered(input_ids.numpy(), ends[:, 0])
    width, rest = int(ends.max()), int((lengths - ends[:, 0]).max())
    num_prompts = len(first_rows)
    if rest == 0 or num_prompts * width + num_rows * rest > (1 - MIN_SAVED) * num_rows * seq:
        return None
    columns, rows = np.arange(seq), np.arange(num_rows)[:, None]
    in_prompt = prompt_of_row[:, None] * width + columns
    behind_it = num_prompts * width + rows * rest + columns - ends
    places = np.where(columns < ends, in_prompt, behind_it)
    places[columns >= lengths[:, None]] = 0
    # beyond the end of a prompt or a row stands whatever stands there: nothing looks at it
    prompt_columns = np.broadcast_to(np.arange(width), (num_prompts, width))
    rest_columns = np.minimum(ends + np.arange(rest), seq - 1)
    sources = (first_rows[:, None] * seq + prompt_columns, rows * seq + rest_columns)
    return SharedPrompts(
        prompt_of_row=torch.from_numpy(prompt_of_row),
        sources=torch.from_numpy(_one_row(sources)),
        position_ids=torch.from_numpy(_one_row((prompt_columns, rest_columns)))[None],
        places=torch.from_numpy(places),
        mask=_mask(torch.from_numpy(ends), width, rest),
        num_prompts=num_prompts,
        width=width,
    )


def _numbered(ids: Indices, ends: Indices) -> tuple[Indices, Indices]:
    """The number of each row's prompt, (rows,), and the first row of each prompt, (prompts,)."""
    numbers: dict[bytes, int] = {}
    first_rows: list[int] = []
    prompt_of_row: list[int] = []
    for row, end in enumerate(ends.tolist()):
        number = numbers.setdefault(ids[row, :end].tobytes(), len(numbers))
        if number == len(first_rows):
            first_rows.append(row)
        prompt_of_row.append(number)
    return np.array(prompt_of_row), np.array(first_rows)


def _one_row(parts: Sequence[Indices]) -> Indices:
    return np.concatenate([part.ravel() for part in parts])


def _mask(ends: Tensor, width: int, rest: int) -> Tensor:
    """See ``SharedPrompts.mask``; ``ends`` are (R, 1)."""
    if bool((ends == width).all()):
        ends = ends[:1]  # one mask does for all
    in_prompt = torch.arange(width) < ends
    causal = torch.ones(rest, rest, dtype=torch.bool).tril()
    parts = in_prompt[:, None].expand(-1, rest, -1), causal.expand(len(ends), -1, -1)
    return torch.cat(parts, dim=2)[:, None]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    shared: SharedPrompts | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention: prompts look at themselves, the rest at its prompt and itself.

    Args:
        module: the layer.
        query: (1, heads, positions, head_dim), as ``key`` and ``value``.
        key: maybe of fewer heads.
        value: as ``key``.
        attention_mask: used where nothing is ``shared``.
        shared: how positions belong together.
        kwargs: for transformers' own function.

    Returns:
        (1, positions, heads, head_dim), and None for the weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as sdpa

    if shared is None:
        return sdpa(module, query, key, value, attention_mask, **kwargs)
    kwargs["is_causal"] = True  # counts where there is no mask
    (query, query_rest), (key, key_rest), (value, value_rest) = map(
        shared.split, (query, key, value)
    )
    prompts, _ = sdpa(module, query, key, value, None, **kwargs)
    rows = shared.prompt_of_row
    seen_keys = torch.cat([key.index_select(0, rows), key_rest], dim=2)
    seen_values = torch.cat([value.index_select(0, rows), value_rest], dim=2)
    rest, _ = sdpa(module, query_rest, seen_keys, seen_values, shared.mask, **kwargs)
    return torch.cat([prompts.flatten(0, 1), rest.flatten(0, 1)])[None], None


NOWHERE = torch.ones(1, 1, 1, 2, dtype=torch.bool)
"""In place of a mask, which models would build otherwise; it fits no row, so that a layer that does
not call ``attend`` fails."""


def can_share(recipe: Recipe, config: PretrainedConfig, device: torch.device) -> bool:
    """Whether this training has groups, and every layer attends to all before it by ``attend``.

    On a GPU it has not been measured, and a compiled layer would be compiled for every shape.
    """
    policy, kinds = recipe.policy, getattr(config, "layer_types", None)
    is_split = policy.parallel.sequence_parallel or policy.sequence_packing.enabled
    if kinds is None:
        sees_all = getattr(config, "sliding_window", None) is None
    else:
        sees_all = set(kinds) == {"full_attention"}
    return (
        recipe.algorithm is Algorithm.GRPO
        and config.model_type in MODEL_TYPES
        and sees_all
        and device.type == "cpu"
        and not (is_split or policy.torch_compile)
    )


def install(model: PreTrainedModel) -> None:
    """Let the model take ``shared``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(SHARING, attend)
    AttentionMaskInterface.register(SHARING, sdpa_mask)
    model.set_attn_implementation(SHARING)
