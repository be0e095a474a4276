"""Baselines: K accepted runs of a recipe on a platform, as a file that a pull request can show.

``tests/baselines/{llm,vlm}/<recipe>/<platform>.json``; the layout is in ``docs/data-formats.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel import atomic_file, run_record
from evenkeel.convergence import curves
from evenkeel.convergence.curves import Curve
from evenkeel.convergence.metric_kinds import Direction
from evenkeel.errors import InputError, did_you_mean
from evenkeel.metrics import series
from evenkeel.recipes import fingerprint
from evenkeel.run_paths import RunPaths

SCHEMA_VERSION = 1
DIGITS = 7
"""Significant digits kept, unless exact values are asked for: those of a 32-bit float."""


@dataclass(frozen=True)
class BaselineRun:
    """Where one run of a baseline came from.

    Args:
        name: unique in the baseline, ``run1`` …
        source: the path it was read from, as given.
        seed: of the recipe; None where it is not known.
        commit: of the code.
        date: when the run started, ISO 8601.
    """

    name: str
    source: str = ""
    seed: int | None = None
    commit: str | None = None
    date: str | None = None


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


@dataclass(frozen=True, eq=False)
class RunEvidence:
    """A run's metrics with what its ``run.json`` tells, if there is one."""

    source: str
    metrics: series.Metrics
    record: Mapping[str, Any]

    @property
    def fingerprint(self) -> str | None:
        """Of the recipe that was run, whatever its seed: a baseline has several."""
        config = self.record.get("config")
        if not isinstance(config, Mapping):
            return self.record.get("fingerprint")
        return fingerprint.fingerprint({k: v for k, v in config.items() if k != "seed"})

    @property
    def platform(self) -> dict[str, Any]:
        """Device and library versions, flat; empty for a bare ``metrics.json``."""
        platform = dict(self.record.get("platform") or {})
        packages = self.record.get("packages")
        if isinstance(packages, Mapping) and packages:
            platform["packages"] = dict(packages)
        return platform

    @property
    def seed(self) -> int | None:
        """The recipe's seed."""
        config = self.record.get("config")
        seed = config.get("seed") if isinstance(config, Mapping) else None
        return seed if isinstance(seed, int) else None


def read_evidence(path: Path) -> RunEvidence:
    """A run's directory, or a ``metrics.json`` (with the ``run.json`` beside it, if any).

    Raises:
        InputError: there is no such file, or it is no metrics file.
    """
    if path.is_dir():
        paths = RunPaths(path)
        metrics_path = paths.metrics
        record_path = paths.run_json
    else:
        metrics_path, record_path = path, path.with_name("run.json")
    # a run.json beside a file that is no metrics.json belongs to something else
    own = path.is_dir() or path.name == "metrics.json"
    record = run_record.read(record_path) if own else {}
    return RunEvidence(str(path), series.load(metrics_path), record)


def of_evidence(
    evidence: Sequence[RunEvidence],
    *,
    recipe: str,
    accepted: Acceptance,
    directions: Mapping[str, Direction] | None = None,
    exact: bool = False,
    bit_exact: bool = False,
) -> Baseline:
    """A baseline of these runs.

    Raises:
        InputError: the runs have no metric in common, or they are of different recipes.
    """
    if not evidence:
        raise InputError("a baseline needs at least one run")
    prints = {one.fingerprint for one in evidence if one.fingerprint}
    if len(prints) > 1:
        raise InputError(
            f"the runs are of {len(prints)} different configurations of the recipe",
            fix="record runs of one configuration; only the seed may differ",
        )
    found = curves.of_runs([one.metrics for one in evidence])
    if not found:
        raise InputError(
            "the runs have no metric with a step in common",
            fix="give metrics files of the same recipe",
        )
    unknown = [name for name in directions or {} if name not in found]
    if unknown:
        raise InputError(f"no metric {unknown[0]!r}{did_you_mean(unknown[0], found)}")
    return Baseline(
        recipe=recipe,
        fingerprint=prints.pop() if prints else None,
        platform=evidence[0].platform,
        runs=tuple(_run(number, one) for number, one in enumerate(evidence, start=1)),
        curves=dict(sorted(found.items())),
        accepted=accepted,
        directions=dict(directions or {}),
        exact=exact,
        bit_exact=bit_exact,
    )


def _run(number: int, evidence: RunEvidence) -> BaselineRun:
    record = evidence.record
    attempts = record.get("attempts") or [{}]
    return BaselineRun(
        name=f"run{number}",
        source=evidence.source,
        seed=evidence.seed,
        commit=(record.get("git") or {}).get("commit"),
        date=attempts[0].get("start"),
    )


def with_runs(
    baseline: Baseline, evidence: Sequence[RunEvidence], accepted: Acceptance
) -> Baseline:
    """``baseline`` with further runs, on the steps that all have; older acceptances are kept.

    Raises:
        InputError: a run is of another configuration, or shares no metric with the baseline.
    """
    for one in evidence:
        if baseline.fingerprint and one.fingerprint not in (None, baseline.fingerprint):
            raise InputError(
                f"{one.source} is a run of another configuration than the baseline",
                fix="record a new baseline for it; a change that shapes the curve needs a new .vN",
            )
    rows = [as_metrics(baseline, number) for number in range(len(baseline.runs))]
    found = curves.of_runs([*rows, *(one.metrics for one in evidence)])
    if not found:
        raise InputError("the runs have no metric with a step in common with the baseline")
    start = len(baseline.runs) + 1
    more = tuple(_run(number, one) for number, one in enumerate(evidence, start=start))
    return replace(
        baseline,
        runs=baseline.runs + more,
        curves=dict(sorted(found.items())),
        accepted=accepted,
        history=(*baseline.history, baseline.accepted),
        retired=None,
    )


def as_metrics(baseline: Baseline, number: int) -> series.Metrics:
    """The metrics of the run at position ``number``."""
    return {
        name: dict(zip(curve.steps.tolist(), curve.values[number].tolist(), strict=True))
        for name, curve in baseline.curves.items()
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
    }
    lines = json.dumps(head, indent=1).rstrip("}\n") + ',\n "metrics": {\n'
    blocks = []
    for name, curve in sorted(baseline.curves.items()):
        rows = [f'   "steps": {_steps(curve)}']
        rows += [
            f'   "{run.name}": [{", ".join(_values(curve, number, baseline.exact))}]'
            for number, run in enumerate(baseline.runs)
        ]
        blocks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n  }")
    return lines + ",\n".join(blocks) + "\n }\n}\n"


def _steps(curve: Curve) -> str:
    """``"first:last:period"`` where steps are regular, else the list."""
    steps = curve.steps
    gaps = np.diff(steps)
    if len(steps) > 2 and (gaps == gaps[0]).all():
        return json.dumps(f"{steps[0]}:{steps[-1]}:{gaps[0]}")
    return json.dumps(steps.tolist())


def _values(curve: Curve, number: int, exact: bool) -> list[str]:
    row = curve.values[number].tolist()
    if exact:
        return [json.dumps(value) for value in row]
    return [json.dumps(float(f"{v:.{DIGITS}g}") if math.isfinite(v) else v) for v in row]


def load(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        InputError: it does not exist, is not JSON, or is not a baseline of a version known here.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "no such baseline",
            path=path,
            fix="record one: evenkeel baseline record --from RUN... --output FILE",
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the baseline: {error}", path=path) from error
    if not isinstance(record, dict) or "metrics" not in record or "runs" not in record:
        raise InputError(
            "not a baseline file",
            path=path,
            fix="'evenkeel baseline record --from metrics.json... --output FILE' writes one",
        )
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


def _of_record(record: Mapping[str, Any]) -> Baseline:
    runs = tuple(BaselineRun(**run) for run in record["runs"])
    found = {}
    for name, block in record["metrics"].items():
        steps = _read_steps(block["steps"])
        values = np.array([block[run.name] for run in runs], dtype=np.float64)
        if values.shape != (len(runs), len(steps)):
            raise ValueError(f"{name}: values of shape {values.shape} for {len(steps)} steps")
        found[name] = Curve(steps, values)
    retired = record.get("retired")
    return Baseline(
        recipe=record["recipe"],
        fingerprint=record["fingerprint"],
        platform=record["platform"],
        runs=runs,
        curves=found,
        accepted=Acceptance(**record["accepted"]),
        history=tuple(Acceptance(**one) for one in record.get("history", ())),
        directions={k: Direction(v) for k, v in record.get("directions", {}).items()},
        bit_exact=bool(record.get("bit_exact")),
        retired=Acceptance(**retired) if retired else None,
        exact=bool(record.get("exact_values")),
    )


def _read_steps(written: str | list[int]) -> curves.Steps:
    if isinstance(written, str):
        first, last, period = map(int, written.split(":"))
        return np.arange(first, last + 1, period, dtype=np.int64)
    return np.array(written, dtype=np.int64)
