"""One thread per test process: several run in parallel, and threads that wait for a core would occupy it."""

from __future__ import annotations

import hashlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests import warm
from trichord.core.wheels import make_importable

make_importable()  # tests compare with torchvision, torchaudio and libraries that import them

# The slowest files, which mostly wait, start first, because whole files are distributed over the test processes.
LONGEST = (
    "test_slurm_runs.py",
    "test_slurm_interruptions.py",
    "test_docs.py",
    "test_resume.py",
    "test_slurm_cluster.py",
    "test_quickstart.py",
    "test_launch.py",
    "test_stream.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--random-order", type=int, metavar="SEED", help="shuffle files, and the tests within each")


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of programs for all processes of a test run; without several, the first program starts it."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        warm.start_server()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seed = config.getoption("--random-order")
    if seed is None:
        items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
        return
    # By a hash of the name, so that all processes of a test run use the same order.
    items.sort(key=lambda item: (_drawn(seed, str(item.path)), _drawn(seed, item.nodeid)))


def _drawn(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
