"""Baselines: K accepted runs of a recipe on a platform, as a file that a pull request can show.

``tests/baselines/{llm,vlm}/<recipe>/<platform>.json``; the layout is in ``docs/data-formats.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from evenkeel import atomic_file
from evenkeel.convergence import baseline_layout
from evenkeel.convergence.curves import Curve
from evenkeel.convergence.metric_kinds import Direction
from evenkeel.errors import InputError
from evenkeel.metrics import series

SCHEMA_VERSION = 1
_RECORDING = "'evenkeel baseline record --from metrics.json... --output FILE' writes one"


@dataclass(frozen=True)
class BaselineRun:
    """Where one run of a baseline came from.

    Args:
        name: unique in the baseline, ``run1`` …
        source: the path it was read from; of an absolute one the last two names.
        seed: of the recipe; None where it is not known.
        commit: of the code.
        date: when the run started, ISO 8601.
        initial_weights: mean size of the weights before training; None where it is not known.
    """

    name: str
    source: str = ""
    seed: int | None = None
    commit: str | None = None
    date: str | None = None
    initial_weights: float | None = None


@dataclass(frozen=True)
class NumericTwin(BaselineRun):
    """A run of a baseline's seed whose initial weights were moved by rounding alone.

    Args:
        numeric_twin: ``policy.numeric_twin`` of its recipe.
    """

    numeric_twin: int = 1


@dataclass(frozen=True)
class Acceptance:
    """Who took these runs for healthy, when and why."""

    by: str
    date: str
    reason: str


@dataclass(frozen=True, eq=False)
class Baseline:
    """Accepted runs of one recipe on one platform.

    Args:
        recipe: its name; empty for metrics of another project.
        fingerprint: over the fields that shape the curve but the seed; None where not known.
        platform: device and library versions, as in ``run.json``.
        runs: where each run came from.
        curves: metric → curve with one row per run.
        accepted: by whom, when and why; earlier acceptances are in ``history``.
        directions: overrides of the table of metric kinds.
        bit_exact: the recipe is deterministic here, and a bit difference is a regression.
        retired: why it does not judge any more; None while it does.
        exact: values are written with all their digits.
        twins: numeric twins of some of the runs; they judge nothing by themselves.
        twin_curves: metric → curve with one row per twin, on the steps of ``curves``.
    """

    recipe: str
    fingerprint: str | None
    platform: Mapping[str, Any]
    runs: tuple[BaselineRun, ...]
    curves: Mapping[str, Curve]
    accepted: Acceptance
    history: tuple[Acceptance, ...] = ()
    directions: Mapping[str, Direction] = field(default_factory=dict)
    bit_exact: bool = False
    retired: Acceptance | None = None
    exact: bool = False
    twins: tuple[NumericTwin, ...] = ()
    twin_curves: Mapping[str, Curve] = field(default_factory=dict)


def rows_of(found: Mapping[str, Curve], first: int, end: int) -> dict[str, Curve]:
    """Some of the runs of curves, metrics in order."""
    return {name: Curve(one.steps, one.values[first:end]) for name, one in sorted(found.items())}


def as_metrics(baseline: Baseline, number: int) -> series.Metrics:
    """The metrics of the run at position ``number``."""
    return _metrics(baseline.curves, number)


def twin_metrics(baseline: Baseline, number: int) -> series.Metrics:
    """The metrics of the numeric twin at position ``number``."""
    return _metrics(baseline.twin_curves, number)


def _metrics(found: Mapping[str, Curve], number: int) -> series.Metrics:
    return {
        name: dict(zip(curve.steps.tolist(), curve.values[number].tolist(), strict=True))
        for name, curve in found.items()
    }


def save(baseline: Baseline, path: Path) -> None:
    """Write it, atomically.

    Raises:
        MachineError: the file system refused.
    """
    atomic_file.write_text(path, dumps(baseline))


def dumps(baseline: Baseline) -> str:
    """The text of a baseline file: provenance first, then one line per run per metric."""
    head: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "recipe": baseline.recipe,
        "fingerprint": baseline.fingerprint,
        "bit_exact": baseline.bit_exact,
        "exact_values": baseline.exact,
        "directions": {name: str(side) for name, side in sorted(baseline.directions.items())},
        "accepted": vars(baseline.accepted),
        "history": [vars(one) for one in baseline.history],
        "retired": vars(baseline.retired) if baseline.retired else None,
        "platform": dict(baseline.platform),
        "runs": [vars(run) for run in baseline.runs],
        "twins": [vars(twin) for twin in baseline.twins],
    }
    metrics = {}
    for name, curve in baseline.curves.items():
        rows = list(zip((run.name for run in baseline.runs), curve.values, strict=True))
        if baseline.twins:
            names = (twin.name for twin in baseline.twins)
            rows += zip(names, baseline.twin_curves[name].values, strict=True)
        metrics[name] = (curve.steps, rows)
    return baseline_layout.written(head, metrics, baseline.exact)


def load(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        InputError: it does not exist, is not JSON, or is not a baseline of a version known here.
    """
    try:
        record = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "no such baseline",
            path=path,
            fix="record one: evenkeel baseline record --from RUN... --output FILE",
        ) from None
    except OSError as error:
        raise InputError(f"cannot read the baseline: {error.strerror}", path=path) from error
    except ValueError as error:
        raise InputError(f"not a baseline file: {error}", path=path, fix=_RECORDING) from error
    if not isinstance(record, dict) or "metrics" not in record or "runs" not in record:
        raise InputError("not a baseline file", path=path, fix=_RECORDING)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"schema_version {record.get('schema_version')!r}; this version reads {SCHEMA_VERSION}",
            path=path,
            fix="record it again, or use the evenkeel that wrote it",
        )
    try:
        return _of_record(record)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"a damaged baseline: {error!r}", path=path) from error


def _parsed(text: str) -> Any:
    """As ``json.loads``, and in a fifth of its time where no value is NaN or infinite."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _of_record(record: Mapping[str, Any]) -> Baseline:
    runs = tuple(BaselineRun(**run) for run in record["runs"])
    twins = tuple(NumericTwin(**twin) for twin in record.get("twins", ()))
    found = {}
    for name, block in record["metrics"].items():
        steps = baseline_layout.read_steps(block["steps"])
        rows = [block[run.name] for run in (*runs, *twins)]
        values = np.array(rows, dtype=np.float64)
        if values.shape != (len(rows), len(steps)):
            raise ValueError(f"{name}: values of shape {values.shape} for {len(steps)} steps")
        found[name] = Curve(steps, values)
    retired = record.get("retired")
    return Baseline(
        recipe=record["recipe"],
        fingerprint=record["fingerprint"],
        platform=record["platform"],
        runs=runs,
        curves=rows_of(found, 0, len(runs)),
        accepted=Acceptance(**record["accepted"]),
        history=tuple(Acceptance(**one) for one in record.get("history", ())),
        directions={k: Direction(v) for k, v in record.get("directions", {}).items()},
        bit_exact=bool(record.get("bit_exact")),
        retired=Acceptance(**retired) if retired else None,
        exact=bool(record.get("exact_values")),
        twins=twins,
        twin_curves=rows_of(found, len(runs), len(runs) + len(twins)) if twins else {},
    )
