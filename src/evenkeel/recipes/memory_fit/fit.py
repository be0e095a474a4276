"""Whether a recipe fits its cards: all stages, all phases, one verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from evenkeel.recipes.memory_fit import generation, training
from evenkeel.recipes.memory_fit.architecture import Model, keys_of, parse
from evenkeel.recipes.memory_fit.cards import GIB, Card
from evenkeel.recipes.memory_fit.layout import Layout, layout_of
from evenkeel.recipes.memory_fit.rank import CUDA_CONTEXT, Phase, Rank
from evenkeel.recipes.schema import Algorithm, Recipe

TIGHT = 0.9
"""Share of the card above which a recipe is tight: what the caching allocator cannot use because
it lies in pieces, and what the formulas leave out, has to go into the rest."""


class Verdict(StrEnum):
    """How a recipe and a card go together."""

    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True)
class Stage:
    """What a rank of one pipeline stage holds."""

    index: int
    num_layers: int
    phases: tuple[Phase, ...]

    @property
    def peak(self) -> Phase:
        """The phase that holds the most."""
        return max(self.phases, key=lambda phase: phase.total)


@dataclass(frozen=True)
class Fit:
    """The answer for one recipe."""

    name: str
    recipe: Recipe
    layout: Layout
    card: Card
    stages: tuple[Stage, ...]
    vllm_needs: float | None
    """Bytes that an engine cannot do without."""

    @property
    def worst(self) -> Stage:
        """The stage that holds the most."""
        return max(self.stages, key=lambda stage: stage.peak.total)

    @property
    def peak(self) -> float:
        """Bytes."""
        return self.worst.peak.total

    @property
    def share(self) -> float:
        """Of the card."""
        return self.peak / self.card.memory

    @property
    def engine_fits(self) -> bool:
        """Whether vLLM's share of the card holds its weights and a sequence."""
        return self.vllm_needs is None or (
            self.vllm_needs <= generation.VLLM_SHARE * self.card.memory - CUDA_CONTEXT
        )

    @property
    def verdict(self) -> Verdict:
        """See ``TIGHT``."""
        if self.share > 1 or not self.engine_fits:
            return Verdict.DOES_NOT_FIT
        return Verdict.TIGHT if self.share > TIGHT else Verdict.FITS

    def to_json(self) -> dict[str, Any]:
        """Numbers in GiB; format in docs/memory.md."""
        return {
            "name": self.name,
            "gpu": self.card.name,
            "memory_gib": round(self.card.memory / GIB, 3),
            "peak_gib": round(self.peak / GIB, 3),
            "share": round(self.share, 4),
            "verdict": self.verdict.value,
            "stages": [
                {
                    "stage": stage.index,
                    "num_layers": stage.num_layers,
                    "peak_phase": stage.peak.name,
                    "phases": {
                        phase.name: {
                            "total_gib": round(phase.total / GIB, 3),
                            **{f"{k}_gib": round(v / GIB, 3) for k, v in phase.parts.items()},
                        }
                        for phase in stage.phases
                    },
                }
                for stage in self.stages
            ],
        }


@dataclass(frozen=True)
class Models:
    """The shapes that a recipe speaks of."""

    policy: Model
    teacher: Model | None


def models_of(recipe: Recipe, models_dir: Path) -> Models:
    """Shapes of the policy and, for distillation, of the teacher.

    Raises:
        InputError: a shape is not known.
    """
    policy = recipe.policy
    keys = keys_of(policy.model_config, policy.model_name, policy.hf_path, models_dir, "policy")
    teacher = None
    if recipe.algorithm is Algorithm.DISTILLATION and recipe.distillation is not None:
        settings, where = recipe.distillation.teacher, "distillation.teacher"
        theirs = keys_of(
            settings.model_config, settings.model_name, settings.hf_path, models_dir, where
        )
        teacher = parse(theirs, f"{where}.model_config")
    return Models(parse(keys), teacher)


def fit(name: str, recipe: Recipe, models: Models, card: Card) -> Fit:
    """Count everything, also of a recipe that no trainer would take (``check_trainable``).

    Raises:
        InputError: the layout does not divide the ranks or the layers.
    """
    layout = layout_of(recipe)
    ranks = [
        Rank(recipe, models.policy, layout, stage, models.teacher, card.memory)
        for stage in range(layout.pp)
    ]
    kinds: tuple[Callable[[Rank], Phase | None], ...] = (
        training.train,
        training.update,
        training.validate,
        generation.generate,
    )
    stages = [
        Stage(
            rank.stage,
            len(rank.layers),
            tuple(phase for kind in kinds if (phase := kind(rank)) is not None),
        )
        for rank in ranks
    ]
    return Fit(name, recipe, layout, card, tuple(stages), generation.vllm_needs(ranks[0]))
