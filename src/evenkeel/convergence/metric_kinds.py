"""What a metric is, told from its name: which side is bad, and how much runs usually differ.

The table is read from the top; the first pattern that is found anywhere in the lower-case name
decides. ``baseline record --direction METRIC=lower`` overrides it for one metric.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from evenkeel.convergence.statistics import Array, Prior


class Direction(StrEnum):
    """Which change is good."""

    LOWER = "lower"
    HIGHER = "higher"
    BOTH = "both"
    """Neither: a change to either side is one that somebody must explain."""
    EXACT = "exact"
    """It follows from the recipe alone and must not change at all (a learning rate)."""


class Family(StrEnum):
    """Which error budget a metric belongs to."""

    CONVERGENCE = "convergence"
    SPEED = "speed"
    MEMORY = "memory"


_WIDE = Prior(math.log(0.03), 1.5)


@dataclass(frozen=True)
class Kind:
    """How a metric is judged.

    Args:
        direction: which side is bad.
        family: convergence decides the verdict; speed and memory are noted beside it.
        weight: share of the error budget, relative to the other metrics of its family.
        positive: judged on the log scale where all values are positive.
        prior: usual relative spreads of healthy runs where no similar recipes are known.
        numeric_floor: relative spread that another driver, library or device of the same class
            causes by rounding alone.
        coarse: relative minimum detectable change from which a check is hardly worth running.
        share: of samples or the like: it lies in [0, 1], unless it is written in per cent.
    """

    direction: Direction
    family: Family = Family.CONVERGENCE
    weight: float = 1.0
    positive: bool = True
    prior: Prior = _WIDE
    numeric_floor: float = 2e-3
    coarse: float = 0.25
    share: bool = False

    def has_shares(self, values: Array) -> bool:
        """Whether these values can be shares: each of them is from 0 to 1."""
        return self.share and bool(values.min() >= 0 and values.max() <= 1)


_LOSS = Kind(Direction.LOWER, weight=4.0, prior=Prior(math.log(0.005), 1.5),
             numeric_floor=4e-4, coarse=0.05)  # fmt: skip
_QUALITY = Kind(Direction.HIGHER, weight=4.0, positive=False, prior=Prior(math.log(0.02), 1.3),
                numeric_floor=1e-3, coarse=0.10)  # fmt: skip
_SHARE = replace(_QUALITY, share=True)
_EFFORT = Kind(Direction.LOWER, weight=4.0, prior=Prior(math.log(0.04), 1.1),
               numeric_floor=4e-3, coarse=0.20)  # fmt: skip
_CHANGE = Kind(Direction.BOTH)
_SIGNED = Kind(Direction.BOTH, positive=False)
_EXACT = Kind(Direction.EXACT, numeric_floor=1e-6)
_TIME = Kind(Direction.LOWER, Family.SPEED, prior=Prior(math.log(0.03), 1.2), numeric_floor=5e-3)
_RATE = Kind(Direction.HIGHER, Family.SPEED, prior=Prior(math.log(0.03), 1.2), numeric_floor=5e-3)
_MEMORY = Kind(Direction.LOWER, Family.MEMORY, prior=Prior(math.log(0.003), 1.8),
               numeric_floor=2e-3, coarse=0.10)  # fmt: skip

# (pattern, kind); the first that is found decides
TABLE: tuple[tuple[str, Kind], ...] = (
    (r"(^|[/_.\- ])(lr|learning[_\- ]?rate)($|[/_.\- ])", _EXACT),
    (r"consumed[_\- ](samples|tokens|train)|(^|/)(epoch|iteration|global_step)$", _EXACT),
    (r"(to|until|till)[_\- ](target|converge\w*|accuracy|loss|train|quality)", _EFFORT),
    (r"(^|[/_])(train(ing)?[_\- ](time|duration|seconds|minutes|hours))", _EFFORT),
    (r"^(time|duration|seconds|minutes|hours|epochs|steps|samples|wall[_\- ]?time)$", _EFFORT),
    (r"(steps|epochs|samples|time|tokens)[_\- ]to[_\- ]", _EFFORT),
    (r"(tokens?|samples?)[_\- ]?per|per[_\- ]s(ec)?|throughput|flops|mfu", _RATE),
    (r"step[_\- ]?time|iteration[_\- ]?time|^timing/|^performance/|_time($|_m?s$)|latency", _TIME),
    (r"elapsed|duration|seconds", _TIME),
    (r"mem(ory)?([_\-/ .]|$)|allocated|reserved|gib$|bytes", _MEMORY),
    (r"grad[_\- ]?norm|params?[_\- ]?norm|norm|num[_\- ]?zeros|entropy|(^|[/_])kl", _CHANGE),
    (r"advantage|margin|logit|logp|log_prob|rewards?_(chosen|rejected)", _SIGNED),
    (r"reward|score|bleu|rouge", _QUALITY),
    (r"acc(uracy)?([/_@.\- ]|$)|f1|pass@|exact_match|(win|success|solve)_rate", _SHARE),
    (r"mean_average_precision|(^|[/_])m?(ap|auc|iou|mrr|ndcg)($|[/_@])", _SHARE),
    (r"success|solve", _QUALITY),
    (r"loss|perplexity|(^|[/_])ppl|nll|cross_entropy|bits_per|bpb|error", _LOSS),
    (r"mse|mae|(^|[/_])[wc]er($|[/_])", _LOSS),
)  # fmt: skip

_COMPILED = tuple((re.compile(pattern), kind) for pattern, kind in TABLE)
_BY_DIRECTION = {
    Direction.LOWER: _LOSS,
    Direction.HIGHER: _QUALITY,
    Direction.BOTH: _SIGNED,
    Direction.EXACT: _EXACT,
}


@lru_cache(maxsize=4096)
def kind_of(name: str, direction: Direction | None = None) -> Kind:
    """How the metric ``name`` is judged; ``direction`` overrides the side, not the rest."""
    lower = name.lower()
    found = next((kind for pattern, kind in _COMPILED if pattern.search(lower)), None)
    if direction is None:
        return found or _SIGNED
    if found is None:
        return _BY_DIRECTION[direction]
    return replace(found, direction=direction)
