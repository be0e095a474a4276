"""Clusters for tests: one shared by a worker's peaceful tests, and fresh ones to break."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from mini_cluster import FOREIGN, Accounting, MiniCluster, missing_programs


def require_slurm(accounting: Accounting = Accounting.FILE) -> None:
    """Skip where Slurm is not installed, but never where a green result is relied upon."""
    missing = missing_programs(accounting)
    if missing and os.environ.get("CI"):
        pytest.fail(f"Slurm is part of this test run, but these are missing: {missing}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture
def slurm_installed() -> None:
    """For a test that starts its cluster in another process."""
    require_slurm()


@pytest.fixture(autouse=True)
def shield(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the caller's own cluster or launches reaches a test."""
    for name in list(os.environ):
        if name.startswith((*FOREIGN, "EVENKEEL_", "NEMORUN_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[MiniCluster]:
    require_slurm()
    with MiniCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: MiniCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniCluster]:
    """A cluster that stays whole, with this process as its client; its jobs end with the test."""
    use(shared_cluster, monkeypatch)
    yield shared_cluster
    shared_cluster.end_all_jobs()


@pytest.fixture
def new_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., MiniCluster]]:
    """Makes clusters that a test may break; the newest one is this process's cluster."""
    with ExitStack() as stack:

        def make(**options: Any) -> MiniCluster:
            require_slurm(options.get("accounting", Accounting.FILE))
            cluster = stack.enter_context(MiniCluster(**options))
            use(cluster, monkeypatch)
            return cluster

        yield make


def use(cluster: MiniCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process, and what it starts, a client of the cluster."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.env()[name])
