"""What of a platform decides the bits that a training computes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NUMERIC_PACKAGES = ("torch", "transformers", "megatron-core", "numpy", "triton", "nvidia-cublas",
                     "transformer-engine", "flash-attn")  # fmt: skip
_GPU = re.compile(
    r"(gb\d{3}|gh\d{3}|b\d{3}|h\d{2,3}|a\d{2,3}[gx]?|l\d{1,2}s?|v\d{3}|t4|mi\d{3}\w?)"
)


def numeric_changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, as ``name old -> new``; empty where a deterministic training repeats itself.

    Args:
        recorded: a platform as in ``run.json``, with its ``packages``.
        now: another one.
    """
    changed = [
        f"{package} {_version(recorded, package)} -> {_version(now, package)}"
        for package in _NUMERIC_PACKAGES
        if _version(recorded, package) != _version(now, package)
    ]
    on_cpu = device_class(recorded) == "cpu"
    for key in ("cpu", "device_name") if on_cpu else ("device_name", "driver"):
        if recorded.get(key) != now.get(key):
            changed.append(f"{key} {recorded.get(key)} -> {now.get(key)}")
    return changed


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


def node_type(platform: Mapping[str, Any]) -> str:
    """The kind of node that speeds are of, for comparison and to print: ``2 x h100``."""
    names = ("cpu", "device_name") if device_class(platform) == "cpu" else ("device_name", "device")
    name = next((platform[key] for key in names if platform.get(key)), "unknown")
    return f"{platform.get('device_count')} x {name}"
