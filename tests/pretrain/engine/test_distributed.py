"""The rank of a process, and the rendezvous of the ranks of a SLURM step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.pretrain.engine.small_run import small_config, write_shards
from tests.pretrain.processes import run_ranks
from trichord.core.errors import UserError
from trichord.pretrain.engine import distributed
from trichord.pretrain.engine.distributed import RankPlacement, find_placement, first_node, join_world, leave_world
from trichord.pretrain.engine.run import pretrain

STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1(x2)",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
}


@pytest.mark.parametrize(
    ("environment", "placement"),
    [
        ({}, RankPlacement(0, 1, 0, 1, "single process")),
        # Plain python in a batch script or under salloc: the job has tasks, but this process is not one of them.
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "6", "SLURM_PROCID": "0"},
            RankPlacement(0, 1, 0, 1, "single process"),
        ),
        (STEP, RankPlacement(4, 6, 0, 1, "SLURM")),
        ({**STEP, "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}, RankPlacement(3, 6, 1, 2, "SLURM")),
        # torchrun started by srun, one per node: its variables count.
        (
            {**STEP, "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"},
            RankPlacement(9, 16, 1, 8, "torchrun"),
        ),
    ],
)
def test_rank_is_read_from_the_environment(environment: dict[str, str], placement: RankPlacement) -> None:
    assert find_placement(environment) == placement


def test_incomplete_environment_is_refused() -> None:
    with pytest.raises(UserError, match="but not WORLD_SIZE, LOCAL_RANK"):
        find_placement({"RANK": "0"})
    with pytest.raises(UserError, match="rank 6 of 6"):
        find_placement({**STEP, "SLURM_PROCID": "6"})


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("gpu7", "gpu7"),
        ("login,gpu7", "login"),
        ("gpu[003-005,9],cpu1", "gpu003"),
        ("gpu[12,3]", "gpu12"),
        ("rack[1-2]n[08-11]-ib,x", "rack1n08-ib"),
    ],
)
def test_rank_0_is_on_the_first_node_of_its_step(listed: str, first: str) -> None:
    assert first_node(listed) == first


JOIN_AGAIN = """
import sys, time
import torch
from trichord.pretrain.engine.distributed import join_world, leave_world
for time_number in range(4):
    world = join_world()
    total = torch.tensor([float(world.rank + 1)])
    torch.distributed.all_reduce(total)
    assert (world.size, total.item()) == (2, 3.0)
    time.sleep(0.1 * (world.rank == time_number % 2))
    leave_world()
    assert not torch.distributed.is_initialized()
print("done")
"""


def test_ranks_may_leave_and_join_again_though_one_is_ahead() -> None:
    assert run_ranks(["-c", JOIN_AGAIN], 2) == ["done\n", "done\n"]


def test_leaving_restores_the_environment_and_other_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_world()
    before = dict(os.environ)
    assert join_world() is join_world()
    assert os.environ["WORLD_SIZE"] == "1"
    dist.destroy_process_group()  # by others
    assert join_world().placement.launcher == "single process"
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    distributed._joined.world = None
    with pytest.raises(UserError, match="rank 0 of 2, but this is rank 0 of 1 by single process"):
        join_world()
    leave_world()
    assert dict(os.environ) == before


def test_process_that_left_the_group_may_join_again(tmp_path: Path) -> None:
    config = small_config(write_shards(tmp_path / "shards"), steps=3)
    losses = []
    for name in ("one", "two"):
        losses.append(pretrain(config, tmp_path / name)["loss"])
        leave_world()
    assert losses[0] == losses[1]
