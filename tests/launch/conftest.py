"""Shared fixtures of the launch tests: a SLURM cluster, and an uninterrupted run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.slow_run import write_data, write_recipe
from tests.launch.slurm_cluster import Cluster, start_cluster, what_is_missing
from tests.launch.slurm_launched import STEPS
from tests.pretrain.processes import run_ranks


@pytest.fixture(scope="session")
def needs_slurm() -> None:
    if missing := what_is_missing():
        pytest.skip(missing)


@pytest.fixture(scope="session")
def cluster(needs_slurm: None) -> Cluster:
    return start_cluster(os.getpid())


@pytest.fixture
def slurm(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A real cluster of three nodes, all up and without jobs, for this test alone; SLURM_CONF points to it."""
    cluster.bring_back()
    monkeypatch.setenv("SLURM_CONF", cluster.environment()["SLURM_CONF"])
    yield cluster
    cluster.cancel_all()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("slow") / "data")


@pytest.fixture(scope="session")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as on SLURM, on two ranks, uninterrupted, without SLURM and without a slow disk."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = write_recipe(data, folder / "fast.yaml", STEPS)
    run_ranks(["trichord", "pretrain", str(recipe), "--run", str(folder / "run")], 2)
    return folder / "run"
