"""A training process keeps freed memory, and ranks share the cores of their machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from trichord.pretrain.engine.allocator import own_cores, thread_plan

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import resource, sys
import torch
from trichord.pretrain.engine.allocator import apply
if sys.argv[1] == "applied":
    assert apply()
source = torch.zeros(64 << 20, dtype=torch.uint8)
def copy_often():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        source.clone()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
copy_often()
print(copy_often())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_large_tensors_cost_page_faults_only_once() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}

    def faults(how: str) -> int:
        command = [sys.executable, "-c", PROGRAM, how]
        done = subprocess.run(command, env=plain, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("as it comes") > 1000
    # In some processes a mapping at a random address splits the heap.
    assert any(faults("applied") < 100 for _ in range(4))


@pytest.mark.parametrize(("policy", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_wait_policy_is_passive_unless_set(policy: str | None, expected: str) -> None:
    program = """
import os, sys
from trichord.pretrain.commands import PRETRAIN
from trichord.pretrain.engine.allocator import apply
from trichord.pretrain.recipe import load_recipe
load_recipe("svt_quickstart", ["data.sources=x"])
apply()
assert "torch" not in sys.modules
print(os.environ["OMP_WAIT_POLICY"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("cores", "ranks", "environment", "threads"),
    [
        (16, 1, {}, 16),
        (16, 4, {}, 4),
        (16, 3, {}, 5),
        (2, 4, {}, 1),
        (16, 4, {"OMP_NUM_THREADS": "2"}, 2),
        (16, 4, {"OMP_NUM_THREADS": "3,2"}, 3),
        (16, 4, {"OMP_NUM_THREADS": ""}, 4),
        (8, 4, {"SLURM_CPUS_PER_TASK": "8"}, 8),  # bound: it has these eight cores alone
        (32, 4, {"SLURM_CPUS_PER_TASK": "8"}, 8),  # not bound: all ranks share all cores
    ],
)
def test_rank_uses_its_share_of_the_cores_or_the_given_number(
    cores: int, ranks: int, environment: dict[str, str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert thread_plan(ranks, environment) == threads


def test_only_usable_cores_are_counted() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert own_cores(1, {}) == len(os.sched_getaffinity(0))
