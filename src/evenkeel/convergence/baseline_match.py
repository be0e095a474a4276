"""Whether a baseline may judge a run: same recipe, and how alike the platforms are. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from evenkeel.convergence.baseline import Baseline
from evenkeel.convergence.matched import OTHER_NUMERICS, SAME_NUMERICS, Rounding
from evenkeel.convergence.platforms import device_class, numeric_changes
from evenkeel.convergence.run_evidence import RunEvidence


class Level(StrEnum):
    """How alike two platforms compute."""

    SAME_NUMERICS = "same numerics"
    """Same device type, device count and libraries: a deterministic recipe repeats bit by bit."""
    SAME_CLASS = "same class"
    """Any CPU, or the same GPU model: rounding differs, which seeds outweigh."""
    UNKNOWN = "unknown"
    """One side does not say where it ran: compared, with a note."""
    OTHER = "other"
    """Not comparable."""


@dataclass(frozen=True)
class Match:
    """What a baseline is worth for a run.

    Args:
        level: of the platforms.
        reason: why the run cannot be compared; empty where it can.
        notes: what a reader should know.
        rounding: how far apart runs of the same seed may be; None where they cannot be paired.
    """

    level: Level
    reason: str = ""
    notes: tuple[str, ...] = ()
    rounding: Rounding | None = None

    @property
    def comparable(self) -> bool:
        """Whether the baseline may judge the run."""
        return not self.reason


def match(baseline: Baseline, run: RunEvidence) -> Match:
    """Compare recipe and platform of a baseline with those of a run."""
    if baseline.retired is not None:
        return Match(Level.OTHER, f"the baseline was retired: {baseline.retired.reason}")
    name = run.record.get("recipe")
    if baseline.recipe and name and name != baseline.recipe:
        return Match(
            Level.OTHER,
            f"the baseline is of {baseline.recipe}, the run of {name}: a new name or version"
            " needs a baseline of its own",
        )
    if baseline.fingerprint and run.fingerprint and baseline.fingerprint != run.fingerprint:
        return Match(
            Level.OTHER,
            "the recipe has changed since the baseline was recorded (fingerprint"
            f" {run.fingerprint[:12]}, was {baseline.fingerprint[:12]}): bump its .vN and record"
            " a baseline for that, or undo the change",
        )
    found = _platforms(baseline.platform, run.platform)
    if found.level is Level.SAME_CLASS and _starts_alike(baseline, run):
        return replace(found, rounding=OTHER_NUMERICS)
    return found


def _starts_alike(baseline: Baseline, run: RunEvidence) -> bool:
    """Whether a baseline run of this seed began with the same weights, but for their rounding.

    Other libraries and processors may draw other numbers from a seed.
    """
    recorded = [one.initial_weights for one in baseline.runs if one.seed == run.seed]
    if run.initial_weights is None or not recorded or recorded[0] is None:
        return False
    return math.isclose(recorded[0], run.initial_weights, rel_tol=_SAME_WEIGHTS)


_SAME_WEIGHTS = 1e-5
"""Of their mean size, which another draw changes by 1e-4 and more, and rounding by 1e-7."""


def _platforms(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Match:
    if not recorded or not now:
        side = "baseline" if not recorded else "run"
        return Match(Level.UNKNOWN, notes=(f"the {side} does not say on which platform it ran",))
    old, new = device_class(recorded), device_class(now)
    if old != new:
        return Match(Level.OTHER, f"the baseline was recorded on {old}, the run was on {new}")
    if recorded.get("device_count") != now.get("device_count"):
        counts = f"{recorded.get('device_count')} devices, now {now.get('device_count')}"
        return Match(Level.SAME_CLASS, notes=(f"baseline on {counts}",))
    changed = numeric_changes(recorded, now)
    if changed:
        return Match(Level.SAME_CLASS, notes=("since the baseline: " + ", ".join(changed),))
    return Match(Level.SAME_NUMERICS, rounding=SAME_NUMERICS)
