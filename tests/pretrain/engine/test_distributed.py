"""The rank of a process, and the rendezvous of the ranks of a SLURM step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pretrain.engine.small_run import small_config, write_shards
from trichord.core.errors import UserError
from trichord.pretrain.engine.distributed import RankPlacement, find_placement, first_node, leave_world
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


def test_process_that_left_the_group_may_join_again(tmp_path: Path) -> None:
    config = small_config(write_shards(tmp_path / "shards"), steps=3)
    losses = []
    for name in ("one", "two"):
        losses.append(pretrain(config, tmp_path / name)["loss"])
        leave_world()
    assert losses[0] == losses[1]
