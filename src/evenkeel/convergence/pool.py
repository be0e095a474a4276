"""What spreads are usual, learned from the baselines of similar recipes.

Every baseline below a folder with at least two runs is measured as if nothing new had come; the
relative variances of its final windows give the prior of a metric (``statistics.fit_prior``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from evenkeel.convergence import baseline as baseline_file
from evenkeel.convergence.baseline import Baseline
from evenkeel.convergence.curves import Curve
from evenkeel.convergence.measurement import measure
from evenkeel.convergence.metric_kinds import Direction, kind_of
from evenkeel.convergence.statistics import Prior, fit_prior
from evenkeel.errors import InputError

_LEAST_GROUPS = 5
"""Below it a metric's own prior is not fitted; metrics of its kind are pooled instead."""

Variances = dict[str, list[tuple[float, float]]]


def read(folder: Path) -> list[Baseline]:
    """Every baseline below ``folder`` that is not retired.

    Raises:
        InputError: there is no such folder, or a baseline in it is damaged.
    """
    if not folder.is_dir():
        raise InputError("no such folder of baselines", path=folder)
    found = (baseline_file.load(path) for path in sorted(folder.rglob("*.json")))
    return [one for one in found if one.retired is None]


def priors(pool: Iterable[Mapping[str, Curve]], names: Iterable[str]) -> dict[str, Prior]:
    """The prior of each metric of ``names`` for which the pool says anything.

    Args:
        pool: curves of the baselines of similar recipes.
        names: metrics to be judged.
    """
    by_name: Variances = defaultdict(list)
    for curves in pool:
        for name, found in variances(curves).items():
            by_name[name].append(found)
    by_kind: dict[object, list[tuple[float, float]]] = defaultdict(list)
    for name, entries in by_name.items():
        by_kind[kind_of(name)] += entries
    made = {}
    for name in names:
        kind = kind_of(name)
        own = by_name.get(name, [])
        entries = own if len(own) >= _LEAST_GROUPS else by_kind.get(kind, [])
        if entries:
            table = np.array(entries)
            made[name] = fit_prior(table[:, 0], table[:, 1], kind.prior)
    return made


def variances(curves: Mapping[str, Curve]) -> dict[str, tuple[float, float]]:
    """(relative variance, degrees of freedom) of the final window of each statistical metric."""
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, curve in curves.items():
        exact = kind_of(name).direction is Direction.EXACT
        if len(curve.values) > 1 and np.isfinite(curve.values).all() and not exact:
            groups[curve.values.shape].append(name)
    found = {}
    for (num_runs, _), names in groups.items():
        kinds = [kind_of(name) for name in names]
        values = np.stack([curves[name].values for name in names])
        measured = measure(values, num_runs, kinds, [kind.prior for kind in kinds])
        spread = measured.items[0].spread
        for i, name in enumerate(names):
            found[name] = (float(spread.variance[i]), float(spread.df[i]))
    return found
