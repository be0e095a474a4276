"""Whether a baseline may judge a run: same recipe, and how alike the platforms are. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evenkeel.convergence.baseline import Baseline, RunEvidence


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
    """

    level: Level
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def comparable(self) -> bool:
        """Whether the baseline may judge the run."""
        return not self.reason


# what decides the bits that a deterministic training computes
_NUMERIC_PACKAGES = ("torch", "transformers", "megatron-core", "numpy", "triton", "nvidia-cublas",
                     "transformer-engine", "flash-attn")  # fmt: skip
_GPU = re.compile(
    r"(gb\d{3}|gh\d{3}|b\d{3}|h\d{2,3}|a\d{2,3}[gx]?|l\d{1,2}s?|v\d{3}|t4|mi\d{3}\w?)"
)


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
    return _platforms(baseline.platform, run.platform)


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
    changed = [
        f"{package} {_version(recorded, package)} -> {_version(now, package)}"
        for package in _NUMERIC_PACKAGES
        if _version(recorded, package) != _version(now, package)
    ]
    for key in ("cpu", "device_name") if old == "cpu" else ("device_name", "driver"):
        if recorded.get(key) != now.get(key):
            changed.append(f"{key} {recorded.get(key)} -> {now.get(key)}")
    if changed:
        return Match(Level.SAME_CLASS, notes=("since the baseline: " + ", ".join(changed),))
    return Match(Level.SAME_NUMERICS)


def _version(platform: Mapping[str, Any], package: str) -> Any:
    packages = platform.get("packages")
    return packages.get(package) if isinstance(packages, Mapping) else None


def device_class(platform: Mapping[str, Any]) -> str:
    """``cpu``, or the GPU model without memory size and form factor (``h100``)."""
    device = str(platform.get("device") or "").lower()
    if device.startswith("cpu"):
        return "cpu"
    name = str(platform.get("device_name") or device).lower()
    found = _GPU.search(name)
    return found.group(1) if found else re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "unknown"
