"""What a run was: its configuration, code, libraries and machine, written into ``run.json``.

Only what is named here is recorded; of the environment nothing but Slurm's job id, so that no
key or token can end up in a file that is published with the results.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from evenkeel import run_record
from evenkeel.recipes.config import ResolvedRecipe

PACKAGES = (
    "evenkeel", "torch", "transformers", "tokenizers", "numpy", "safetensors", "datasets",
    "megatron-core", "transformer-engine", "flash-attn", "triton", "vllm", "nvidia-nccl-cu12",
    "nvidia-nccl-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
)  # fmt: skip
"""Distributions whose version can move a curve or a speed."""

_GIT_KEYS = ("commit", "dirty", "diff_sha256")
_MAX_HASHED_BYTES = 16 << 20

SNAPSHOTS = ".trees"
"""The folder of code snapshots: trees without ``.git``, each with its manifest, ``<tree>.json``,
beside it."""


def record(
    path: Path,
    resolved: ResolvedRecipe,
    device: torch.device,
    initial_weights: float | None = None,
) -> None:
    """Add the provenance to the record at ``path`` and keep what it holds, attempts above all.

    Each start overwrites the last one's provenance. Where that changed something (another commit,
    another library version), the current attempt keeps under ``changed_from`` what it was before.

    Args:
        path: ``run.json``.
        resolved: the recipe.
        device: where this rank computes.
        initial_weights: mean size of the weights before training; None where it is not known.

    Raises:
        InputError: the file there is not a run record.
        MachineError: it cannot be written.
    """
    new = {
        "recipe": resolved.name,
        "algorithm": resolved.recipe.algorithm.value,
        "max_steps": resolved.recipe.loop.max_num_steps,
        "fingerprint": resolved.fingerprint,
        "config": resolved.values,
        "git": git_state(Path(__file__).parent),
        "packages": package_versions(),
        "platform": platform_of(device),
        "initial_weights": initial_weights,
    }
    old = run_record.read(path)
    run_record.add(path, new)
    changed = differences({key: old[key] for key in new if key in old}, new)
    if changed and old["attempts"]:
        attempts = [*old["attempts"][:-1], {**old["attempts"][-1], "changed_from": changed}]
        run_record.add(path, {"attempts": attempts})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``old`` that are other or absent in ``new``, nested as they are there."""
    found: dict[str, Any] = {}
    for key, value in old.items():
        now = new.get(key)
        if isinstance(value, Mapping) and isinstance(now, Mapping):
            if deeper := differences(value, now):
                found[key] = deeper
        elif value != now:
            found[key] = value
    return found


def package_versions() -> dict[str, str]:
    """Version of each of ``PACKAGES`` that is installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def platform_of(device: torch.device) -> dict[str, Any]:
    """Device and machine of this rank."""
    on_cuda = device.type == "cuda"
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if on_cuda else _cpu_name(),
        "device_count": torch.cuda.device_count() if on_cuda else os.cpu_count(),
        "driver": _nvidia_driver() if on_cuda else None,
        "cuda": torch.version.cuda if on_cuda else None,
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": _cpu_name(),
        "hostname": socket.gethostname(),
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and uncommitted changes of the repository around ``folder``.

    Returns:
        ``commit``; ``dirty``, whether tracked files differ from it or untracked ones are there;
        ``diff_sha256``, over the differences and the untracked files, null where clean. In a code
        snapshot what its manifest says; outside of both, all null.
    """
    folder = folder.resolve()
    for parent in (folder, *folder.parents):
        if parent.parent.name == SNAPSHOTS:
            return _from_manifest(parent.with_name(f"{parent.name}.json"))
        if (parent / ".git").exists():
            return _from_git(parent)
    return dict.fromkeys(_GIT_KEYS)


def _from_manifest(manifest: Path) -> dict[str, Any]:
    try:
        said = json.loads(manifest.read_text(encoding="utf-8"))
        dirty = bool(said["included"])
        return {"commit": said["commit"], "dirty": dirty, "diff_sha256": said["diff_sha256"]}
    except (OSError, ValueError, KeyError, TypeError):
        return dict.fromkeys(_GIT_KEYS)


def _from_git(root: Path) -> dict[str, Any]:
    commit = _git(root, "rev-parse", "HEAD")
    diff = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv")
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    if commit is None or diff is None or untracked is None:
        return dict.fromkeys(_GIT_KEYS)
    digest = hashlib.sha256(diff)
    names = sorted(name for name in untracked.split(b"\0") if name)
    for name in names:
        digest.update(name + b"\0" + _content_hash(root / os.fsdecode(name)))
    dirty = bool(diff or names)
    return {
        "commit": commit.decode().strip(),
        "dirty": dirty,
        "diff_sha256": digest.hexdigest() if dirty else None,
    }


def _content_hash(path: Path) -> bytes:
    """SHA-256 of an untracked file; of a large one's size, of nothing if it cannot be read."""
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _MAX_HASHED_BYTES else str(size).encode()
    except OSError:  # a dangling link, no permission
        content = b""
    return hashlib.sha256(content).digest()


def _git(root: Path, *arguments: str) -> bytes | None:
    return _output(["git", "-C", str(root), *arguments])


def _output(command: list[str]) -> bytes | None:
    """What a command prints, or None where it is missing, fails or hangs."""
    try:
        # Variables that git sets inside its hooks would point it at another repository.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        done = subprocess.run(command, capture_output=True, check=True, timeout=30, env=environment)
        return done.stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    readers: tuple[Callable[[], str], ...] = (_cpuinfo_model, platform.processor, platform.machine)
    return next((name for reader in readers if (name := reader())), "unknown")


def _cpuinfo_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "")


def _nvidia_driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    output = _output(query)
    return output.decode().split("\n")[0].strip() or None if output else None
