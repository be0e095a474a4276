"""What holds for every test: the comparator's options, and a shield from the caller's shell."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

pytest_plugins = ["evenkeel.pytest_plugin", "pytester"]

# in CI the same examples every time: a change is not failed by what it did not touch
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("user", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "user")

_THE_CALLERS = ("EVENKEEL_", "SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "WANDB_", "MLFLOW_")
_LAUNCH_VARIABLES = """
    DRYRUN CONTAINER ACCOUNT PARTITION MOUNTS EXTRA_ENV EXTRA_SCRIPT_ARGS EXCLUDE_GRES WATCH
    CODE_SNAPSHOT_DIRNAME IS_RELEASE SEGMENT_SIZE TEST_DRYRUN KEEP_CKPTS NO_COLOR FORCE_COLOR
    COLUMNS
"""


@pytest.fixture(autouse=True)
def _shielded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees variables that steer evenkeel, Slurm or a tracker."""
    for name in list(os.environ):
        if name.startswith(_THE_CALLERS) or name in _LAUNCH_VARIABLES.split():
            monkeypatch.delenv(name)
    yield
