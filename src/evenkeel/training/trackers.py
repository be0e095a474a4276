"""Experiment trackers, each an optional package behind the same three calls.

A run that is continued continues in the tracker, too: its id there is kept in
``tracker_ids.json`` in the log directory. Keys and addresses come from the environment alone
(``WANDB_API_KEY``, ``WANDB_MODE``, ``MLFLOW_TRACKING_URI`` …), never from a recipe.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from evenkeel import atomic_file
from evenkeel.errors import InputError
from evenkeel.recipes import schema

SCHEMA_VERSION = 1
_MAX_PARAM_CHARACTERS = 500
_SEND_PERIOD_S = 1.0
# the most that one of MLflow's requests may carry
_MAX_METRICS, _MAX_PARAMS = 1000, 100


class Tracker(Protocol):
    """What a tracker has to offer."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values at a step."""
        ...

    def close(self, *, failed: bool) -> None:
        """Send what is pending and end the run."""
        ...


def open_trackers(recipe: schema.Recipe, name: str, log_dir: Path) -> list[Tracker]:
    """The trackers that ``recipe.logger`` enables, with a run of the recipe opened in each.

    Raises:
        InputError: one is not installed, or refuses (no key, no such server).
    """
    trackers: list[Tracker] = []
    if recipe.logger.wandb.enabled:
        trackers.append(WandbTracker(recipe, name, log_dir))
    if recipe.logger.mlflow.enabled:
        trackers.append(MlflowTracker(recipe, name, log_dir))
    return [Tolerant(tracker, sys.stderr) for tracker in trackers]


class Tolerant:
    """A tracker whose failures do not end the training: the event files have every value.

    After the first one it is left alone, for a server that does not answer costs its time-out at
    every step.
    """

    def __init__(self, tracker: Tracker, stream: TextIO) -> None:
        self._tracker: Tracker | None = tracker
        self._stream = stream

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values at a step, as long as it works."""
        self._attempt(lambda tracker: tracker.log(metrics, step))

    def close(self, *, failed: bool) -> None:
        """End the run, if it still works."""
        self._attempt(lambda tracker: tracker.close(failed=failed))

    def _attempt(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except Exception as error:  # from a foreign package and a network, of any class
            name = type(self._tracker).__name__
            self._tracker = None
            self._stream.write(f"warning: {name} failed and gets no more metrics: {error}\n")


class WandbTracker:
    """Weights & Biases; ``WANDB_MODE=offline`` keeps everything on this machine."""

    def __init__(self, recipe: schema.Recipe, name: str, log_dir: Path) -> None:
        wandb = _import("wandb", "wandb")
        section = recipe.logger.wandb
        run_id = _known_id(log_dir, "wandb") or uuid.uuid4().hex[:12]
        try:
            self._run = wandb.init(
                project=section.project,
                name=section.name or name,
                id=run_id,
                resume="allow",
                dir=str(log_dir),
                config=dataclasses.asdict(recipe),
            )
        except Exception as error:  # its errors share no class that all versions have
            raise _refused("wandb", "WANDB_API_KEY, or WANDB_MODE=offline", error) from error
        _keep_id(log_dir, "wandb", run_id)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values at a step; steps before the last one that it has are dropped by wandb."""
        self._run.log(dict(metrics), step=step)

    def close(self, *, failed: bool) -> None:
        """Upload what is pending."""
        self._run.finish(exit_code=int(failed))


class MlflowTracker:
    """MLflow; without ``MLFLOW_TRACKING_URI`` it writes where MLflow does by default."""

    def __init__(self, recipe: schema.Recipe, name: str, log_dir: Path) -> None:
        mlflow = _import("mlflow", "mlflow")
        self._entities = mlflow.entities
        self._pending: list[Any] = []
        self._sent_at = 0.0
        section = recipe.logger.mlflow
        self._run_id = _known_id(log_dir, "mlflow")
        try:
            self._client = mlflow.MlflowClient()
            if self._run_id is None:
                self._run_id = self._create(section.project, section.name or name, recipe)
            else:
                self._client.update_run(self._run_id, status="RUNNING")
        except Exception as error:  # from its many back ends, of many classes
            raise _refused("mlflow", "MLFLOW_TRACKING_URI", error) from error
        _keep_id(log_dir, "mlflow", self._run_id)

    def _create(self, project: str, run_name: str, recipe: schema.Recipe) -> str:
        experiment = self._client.get_experiment_by_name(project)
        if experiment is None:
            experiment_id = self._client.create_experiment(project)
        else:
            experiment_id = experiment.experiment_id
        run = self._client.create_run(experiment_id, run_name=run_name)
        run_id = str(run.info.run_id)
        params = [
            self._entities.Param(key, str(value)[:_MAX_PARAM_CHARACTERS])
            for key, value in _flat(dataclasses.asdict(recipe))
        ]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
        return run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values at a step; they are sent together once a second at most."""
        now = time.time()
        for key, value in metrics.items():
            self._pending.append(self._entities.Metric(key, value, int(now * 1000), step))
        if now - self._sent_at >= _SEND_PERIOD_S:
            self._send()

    def _send(self) -> None:
        self._sent_at = time.time()
        pending, self._pending = self._pending, []
        for start in range(0, len(pending), _MAX_METRICS):
            batch = pending[start : start + _MAX_METRICS]
            self._client.log_batch(self._run_id, metrics=batch)

    def close(self, *, failed: bool) -> None:
        """Send what is pending and mark the run as finished or failed."""
        self._send()
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"logger.{extra}.enabled is true, but {module} cannot be imported: {error}",
            fix=f"uv pip install 'evenkeel[{extra}]', or set logger.{extra}.enabled=false",
        ) from error


def _refused(tracker: str, variables: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        f"{tracker} does not open a run: {reason}",
        fix=f"check {variables} in the environment, or set logger.{tracker}.enabled=false",
    )


def _ids_file(log_dir: Path) -> Path:
    return log_dir / "tracker_ids.json"


def _ids(log_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads(_ids_file(log_dir).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _known_id(log_dir: Path, tracker: str) -> str | None:
    value = _ids(log_dir).get(tracker)
    return value if isinstance(value, str) else None


def _keep_id(log_dir: Path, tracker: str, run_id: str) -> None:
    known = {**_ids(log_dir), "schema_version": SCHEMA_VERSION, tracker: run_id}
    atomic_file.write_json(_ids_file(log_dir), known)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of nested mappings."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
