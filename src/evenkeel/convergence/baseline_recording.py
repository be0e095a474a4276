"""Runs into a baseline, and more of them into one that exists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel.convergence import curves, platforms
from evenkeel.convergence.baseline import (
    Acceptance,
    Baseline,
    BaselineRun,
    NumericTwin,
    as_metrics,
    rows_of,
    twin_metrics,
)
from evenkeel.convergence.curves import Curve
from evenkeel.convergence.metric_kinds import Direction, Family, kind_of
from evenkeel.convergence.run_evidence import RunEvidence
from evenkeel.errors import InputError, did_you_mean

_FILED = 1e-6
"""Relative; values of baselines are filed with seven digits."""


def of_evidence(
    evidence: Sequence[RunEvidence],
    *,
    recipe: str,
    accepted: Acceptance,
    directions: Mapping[str, Direction] | None = None,
    exact: bool = False,
    bit_exact: bool = False,
) -> Baseline:
    """A baseline of these runs; the numeric twins among them are told from the others.

    Raises:
        InputError: the runs have no metric in common, or they are of different recipes; a twin's
            seed is none of the others', or was trained with other numerics; a run diverged.
    """
    runs = [one for one in evidence if not one.numeric_twin]
    twins = [one for one in evidence if one.numeric_twin]
    if not runs:
        raise InputError("a baseline needs at least one run that is no numeric twin")
    prints = {one.fingerprint for one in evidence if one.fingerprint}
    if len(prints) > 1:
        raise InputError(
            f"the runs are of {len(prints)} different configurations of the recipe",
            fix="record runs of one configuration; only the seed may differ",
        )
    _refuse_strays(twins, {one.seed for one in runs}, runs[0].platform)
    found = curves.of_runs([one.metrics for one in (*runs, *twins)])
    _refuse_diverged(found, [one.source for one in (*runs, *twins)])
    if not found:
        raise InputError(
            f"the runs have no metric with a step in common: {_told_apart((*runs, *twins))}",
            fix="give metrics files of the same recipe",
        )
    unknown = [name for name in directions or {} if name not in found]
    if unknown:
        raise InputError(f"no metric {unknown[0]!r}{did_you_mean(unknown[0], found)}")
    return Baseline(
        recipe=recipe,
        fingerprint=prints.pop() if prints else None,
        platform=runs[0].platform,
        runs=tuple(_run(f"run{number}", one) for number, one in enumerate(runs, start=1)),
        curves=rows_of(found, 0, len(runs)),
        accepted=accepted,
        directions=dict(directions or {}),
        exact=exact,
        bit_exact=bit_exact,
        twins=tuple(_twin(f"twin{number}", one) for number, one in enumerate(twins, start=1)),
        twin_curves=rows_of(found, len(runs), len(evidence)) if twins else {},
    )


def _run(name: str, evidence: RunEvidence) -> BaselineRun:
    record = evidence.record
    attempts = record.get("attempts") or [{}]
    path = Path(evidence.source)
    return BaselineRun(
        name=name,
        source=str(Path(*path.parts[-2:]) if path.is_absolute() else path),
        seed=evidence.seed,
        commit=(record.get("git") or {}).get("commit"),
        date=attempts[0].get("start"),
        initial_weights=evidence.initial_weights,
    )


def _twin(name: str, evidence: RunEvidence) -> NumericTwin:
    return NumericTwin(**vars(_run(name, evidence)), numeric_twin=evidence.numeric_twin)


def _refuse_diverged(found: Mapping[str, Curve], sources: Sequence[str]) -> None:
    """Raise for a run whose loss or quality is lost: it is no healthy one.

    Args:
        found: metric → curve with a row per run and twin.
        sources: of these rows.
    """
    for name, curve in found.items():
        if kind_of(name).direction not in (Direction.LOWER, Direction.HIGHER):
            continue
        if kind_of(name).family is not Family.CONVERGENCE:
            continue
        finite = np.isfinite(curve.values)
        lost = ~finite & finite.any(axis=0)
        lost[:, -1] = ~finite[:, -1]
        if lost.any():
            row = int(lost.any(axis=1).argmax())
            place = int(lost[row].argmax())
            raise InputError(
                f"{name} of {sources[row]} is {curve.values[row, place]} at step"
                f" {curve.steps[place]}, and a run that diverged is no healthy one",
                fix="leave the run out",
            )


def _refuse_copies(found: Mapping[str, Curve], num_old: int, sources: Sequence[str]) -> None:
    """Raise where one of the runs behind the first ``num_old`` is the same as one before it."""
    for row in range(num_old, len(sources)):
        for earlier in range(row):
            if all(
                np.allclose(curve.values[row], curve.values[earlier], _FILED, 0, equal_nan=True)
                for curve in found.values()
            ):
                raise InputError(
                    f"{sources[row]} is the same as {sources[earlier]} in every value: copies tell"
                    " nothing of how runs vary",
                    fix="add runs of other seeds",
                )


def _refuse_strays(
    twins: Sequence[RunEvidence], seeds: Collection[int | None], platform: Mapping[str, Any]
) -> None:
    """Raise for a twin that tells nothing of the baseline's runs."""
    for twin in twins:
        if twin.seed not in seeds:
            raise InputError(
                f"{twin.source} is a numeric twin of seed {twin.seed}, and no run has that seed",
                fix=f"train the twin with one of the seeds {sorted(s for s in seeds if s)}",
            )
        changed = platforms.numeric_changes(platform, twin.platform)
        if changed:
            raise InputError(
                f"{twin.source} is a numeric twin from another platform: {', '.join(changed)}",
                fix="train the twin where the runs of its baseline were trained",
            )


def with_runs(
    baseline: Baseline, evidence: Sequence[RunEvidence], accepted: Acceptance
) -> Baseline:
    """``baseline`` with further runs, on the steps that all have; older acceptances are kept.

    Raises:
        InputError: a run is of another configuration, shares no metric with the baseline, is a
            copy of another one, or diverged.
    """
    for one in evidence:
        if baseline.fingerprint and one.fingerprint not in (None, baseline.fingerprint):
            raise InputError(
                f"{one.source} is a run of another configuration than the baseline",
                fix="record a new baseline for it; a change that shapes the curve needs a new .vN",
            )
    new = [one for one in evidence if not one.numeric_twin]
    new_twins = [one for one in evidence if one.numeric_twin]
    runs = baseline.runs + tuple(
        _run(f"run{number}", one) for number, one in enumerate(new, start=len(baseline.runs) + 1)
    )
    twins = baseline.twins + tuple(
        _twin(f"twin{number}", one)
        for number, one in enumerate(new_twins, start=len(baseline.twins) + 1)
    )
    _refuse_strays(new_twins, {run.seed for run in runs}, baseline.platform)
    rows = [as_metrics(baseline, number) for number in range(len(baseline.runs))]
    rows += [one.metrics for one in new]
    rows += [twin_metrics(baseline, number) for number in range(len(baseline.twins))]
    rows += [one.metrics for one in new_twins]
    found = curves.of_runs(rows)
    if not found:
        raise InputError("the runs have no metric with a step in common with the baseline")
    sources = [one.name for one in baseline.runs] + [one.source for one in new]
    if not baseline.bit_exact:
        _refuse_copies(found, len(baseline.runs), sources)
    sources += [one.name for one in baseline.twins] + [one.source for one in new_twins]
    _refuse_diverged(found, sources)
    return replace(
        baseline,
        runs=runs,
        curves=rows_of(found, 0, len(runs)),
        accepted=accepted,
        history=(*baseline.history, baseline.accepted),
        retired=None,
        twins=twins,
        twin_curves=rows_of(found, len(runs), len(rows)) if twins else {},
    )


def left_out(evidence: Sequence[RunEvidence], made: Baseline) -> list[str]:
    """What runs have that their baseline has not: metrics, and steps, that not all of them have."""
    found = []
    names = dict.fromkeys(name for one in evidence for name in one.metrics)
    for name in names:
        without = [one.source for one in evidence if not one.metrics.get(name)]
        if name in made.curves:
            longest = max(len(one.metrics[name]) for one in evidence)
            kept = len(made.curves[name].steps)
            if kept < longest:
                found.append(
                    f"{name}: only the {kept} steps that all runs have, of up to {longest}"
                )
        elif without:
            found.append(f"{name} is left out: not in {_few(without)}")
        else:
            found.append(f"{name} is left out: no step that all runs have")
    return found


def _told_apart(evidence: Sequence[RunEvidence]) -> str:
    """What each of a few runs has, for whoever sees at once which of them is the stranger."""
    shown = []
    for one in evidence[:3]:
        filled = [name for name, values in one.metrics.items() if values]
        steps = sorted({step for values in one.metrics.values() for step in values})
        span = f" at steps {steps[0]} to {steps[-1]}" if steps else ""
        shown.append(f"{one.source} has {_few(filled) if filled else 'no metric'}{span}")
    return "; ".join(shown)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
