"""What a run left behind for those who judge it: its metrics, and what its ``run.json`` tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from evenkeel import run_record
from evenkeel.errors import InputError
from evenkeel.metrics import series
from evenkeel.recipes import fingerprint
from evenkeel.run_paths import RunPaths


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

    @property
    def initial_weights(self) -> float | None:
        """Mean size of the weights before training; None where it is not known."""
        size = self.record.get("initial_weights")
        return size if isinstance(size, float) else None

    @property
    def numeric_twin(self) -> int:
        """``policy.numeric_twin`` of the recipe; 0 where it is no twin, or not known."""
        config = self.record.get("config")
        policy = config.get("policy") if isinstance(config, Mapping) else None
        number = policy.get("numeric_twin") if isinstance(policy, Mapping) else None
        return number if isinstance(number, int) else 0

    def without(self, patterns: Sequence[str]) -> RunEvidence:
        """The same run less the metrics whose names fit a shell pattern, ``timing/*`` for one."""
        kept = {
            name: values
            for name, values in self.metrics.items()
            if not any(fnmatchcase(name, pattern) for pattern in patterns)
        }
        return replace(self, metrics=kept)


def read_evidence(path: Path) -> RunEvidence:
    """A run's directory, or a ``metrics.json`` (with the ``run.json`` beside it, if any).

    Raises:
        InputError: there is no such file, or it is no metrics file.
    """
    if is_baseline(path):
        raise InputError(
            "this is a baseline, where a run is wanted",
            path=path,
            fix="name a metrics file or a run directory",
        )
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


def is_baseline(path: Path) -> bool:
    """Whether a file says so in its first bytes (a metrics file has no schema_version)."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"schema_version"' in file.read(200)
