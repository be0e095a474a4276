"""Which changes of the layout alone would make a recipe fit, each of them counted anew.

Only fields that never shape the curve are touched, so that a mend needs no new version of a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evenkeel.errors import InputError
from evenkeel.recipes.memory_fit.cards import CARDS
from evenkeel.recipes.memory_fit.fit import Fit, Models, Verdict, fit
from evenkeel.recipes.memory_fit.refusals import check_trainable
from evenkeel.recipes.schema import Algorithm, Backend, Recipe

TENSOR = "policy.parallel.tensor_parallel_size"
EXPERT = "policy.parallel.expert_parallel_size"
CHUNK = 1024
"""Positions of ``policy.logits_chunk_size`` where it is proposed."""

Change = tuple[str, Any]
"""A dotted key and its value."""


@dataclass(frozen=True)
class Mend:
    """Changes and what they lead to."""

    changes: tuple[Change, ...]
    result: Fit

    @property
    def overrides(self) -> list[str]:
        """As the command line takes them."""
        return [f"{key}={_yaml(value)}" for key, value in self.changes]


def mends(wrong: Fit, models: Models) -> list[Mend]:
    """Single changes that make it fit, the cheapest first; else the fewest that do together.

    Empty where nothing here helps.
    """
    singles = list(_tried(wrong, models, [(change,) for change in _changes(wrong, models)]))
    good = [mend for mend in singles if mend.result.verdict is not Verdict.DOES_NOT_FIT]
    if good:
        return _cheapest_per_key(good)
    together = _together(wrong, models)
    return [together] if together is not None else []


def larger_card(wrong: Fit, models: Models) -> Fit | None:
    """The smallest card that the recipe fits as it is, if there is one."""
    for card in CARDS.values():
        if card.memory > wrong.card.memory:
            found = fit(wrong.name, wrong.recipe, models, card)
            if found.verdict is not Verdict.DOES_NOT_FIT:
                return found
    return None


def _cheapest_per_key(good: Sequence[Mend]) -> list[Mend]:
    found: dict[str, Mend] = {}
    for mend in good:
        found.setdefault(mend.changes[0][0], mend)
    return list(found.values())


def _changes(wrong: Fit, models: Models) -> Iterator[Change]:
    """What could be changed, in the order of its cost; of one key, the smallest change first."""
    yield from _cheap_changes(wrong.recipe, wrong)
    policy, layout, text = wrong.recipe.policy, wrong.layout, models.policy.text
    for factor in (2, 4, 8):
        tp = layout.tp * factor
        if tp <= wrong.recipe.cluster.gpus_per_node:
            yield TENSOR, tp
    if policy.backend is Backend.MEGATRON:
        for factor in (2, 4):
            yield "policy.parallel.pipeline_parallel_size", layout.pp * factor
            yield "policy.parallel.context_parallel_size", layout.cp * factor
            if text.experts is not None:
                yield EXPERT, layout.ep * factor
    for factor in (2, 4):
        yield "cluster.num_nodes", wrong.recipe.cluster.num_nodes * factor


def _complete(changes: tuple[Change, ...], wrong: Fit, models: Models) -> tuple[Change, ...]:
    """With the size of expert parallelism that torch asks for beside one of tensor parallelism."""
    ranks = dict(changes).get(TENSOR)
    on_torch = wrong.recipe.policy.backend is Backend.FSDP2
    if ranks is None or not on_torch or models.policy.text.experts is None:
        return changes
    return (*(change for change in changes if change[0] != EXPERT), (EXPERT, ranks))


def _cheap_changes(recipe: Recipe, wrong: Fit) -> Iterator[Change]:
    """Those that cost no GPUs and no communication."""
    policy, layout, algorithm = recipe.policy, wrong.layout, recipe.algorithm
    size = recipe.val_samples_per_pass(layout.dp) // 2
    while size >= 1:
        yield f"{algorithm.value}.val_micro_batch_size", size
        size //= 2
    rows = policy.train_micro_batch_size // 2
    while rows >= 1 and not policy.dynamic_batching.enabled:
        yield "policy.train_micro_batch_size", rows
        rows //= 2
    shares = policy.parallel.sequence_parallel and layout.tp > 1
    chunks = policy.backend is Backend.FSDP2 and not shares and policy.logits_chunk_size is None
    if chunks and algorithm is not Algorithm.DISTILLATION:
        yield "policy.logits_chunk_size", CHUNK
    in_torch_stages = policy.backend is Backend.FSDP2 and layout.pp > 1  # refused together
    can_share = layout.tp > 1 and not in_torch_stages
    if can_share and not shares and policy.logits_chunk_size is None:
        yield "policy.parallel.sequence_parallel", True
    if not policy.activation_checkpointing:
        yield "policy.activation_checkpointing", True


def _tried(wrong: Fit, models: Models, attempts: Sequence[tuple[Change, ...]]) -> Iterator[Mend]:
    for attempt in attempts:
        recipe, changes = wrong.recipe, _complete(attempt, wrong, models)
        for key, value in changes:
            recipe = _changed(recipe, key.split("."), value)
        try:
            check_trainable(recipe, models)
            yield Mend(changes, fit(wrong.name, recipe, models, wrong.card))
        except InputError:
            continue  # the sizes do not divide, or the trainers refuse it


def _together(wrong: Fit, models: Models) -> Mend | None:
    """Take what helps most, again and again, until it fits; then leave out what was not needed."""
    taken: tuple[Change, ...] = ()
    present = wrong
    while present.verdict is Verdict.DOES_NOT_FIT:
        kept = {key for key, _ in taken}
        open_changes = [change for change in _changes(present, models) if change[0] not in kept]
        attempts = [(*taken, change) for change in open_changes]
        best = min(_tried(wrong, models, attempts), key=lambda mend: mend.result.peak, default=None)
        if best is None or best.result.peak >= present.peak:
            return None
        taken, present = best.changes, best.result
    for change in taken:
        fewer = tuple(other for other in taken if other != change)
        if fewer and any(
            mend.result.verdict is not Verdict.DOES_NOT_FIT
            for mend in _tried(wrong, models, [fewer])
        ):
            taken = fewer
    return next(_tried(wrong, models, [taken]))


def _changed(section: Any, keys: Sequence[str], value: Any) -> Any:
    """A copy of a recipe's section with another value at the dotted key."""
    first, *rest = keys
    if rest:
        value = _changed(getattr(section, first), rest, value)
    return replace(section, **{first: value})


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
