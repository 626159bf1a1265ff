"""What the tests of launching share: a SLURM cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.launch.slurm_cluster import Cluster, shared_cluster, turn, what_is_missing


@pytest.fixture
def needs_slurm() -> None:
    if missing := what_is_missing():
        pytest.skip(missing)


@pytest.fixture
def slurm(
    needs_slurm: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """A real cluster of three nodes, all up and without jobs, for this test alone; SLURM_CONF points to it."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    session = tmp_path_factory.getbasetemp()
    shared = session.parent if is_worker else session  # a worker's folder lies in that of the whole session
    with turn(shared / "slurm.lock"):
        cluster = shared_cluster(shared, watched=os.getppid() if is_worker else os.getpid())
        monkeypatch.setenv("SLURM_CONF", cluster.environment()["SLURM_CONF"])
        yield cluster
        cluster.cancel_all()
