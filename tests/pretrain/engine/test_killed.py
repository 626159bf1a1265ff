"""After `kill -9` at any moment, even during a save, a run resumes from its last complete checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.pretrain.engine.jobs import Job, run_jobs
from tests.pretrain.engine.small_run import write_shards
from tests.pretrain.processes import run_ranks
from trichord.pretrain.engine import checkpoint_files


def test_repeatedly_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    command = ["tests.pretrain.engine.killed", str(shards), str(tmp_path / "killed"), "1"]
    ends = json.loads(run_ranks(command, 1)[0].splitlines()[-1])
    assert ends[-1] == "0" and set(ends[:-1]) == {"-9"} and len(ends) > 4
    run_jobs(shards, [Job(tmp_path / "whole")], 1)

    whole, killed = tmp_path / "whole/checkpoints", tmp_path / "killed/checkpoints"
    assert (killed / "latest").read_text() == "step_00000010\n"
    files = sorted(checkpoint_files.read_index(whole / "step_00000010").files)
    expected = dict(checkpoint_files.read_tensors(whole / "step_00000010", files))
    found = dict(checkpoint_files.read_tensors(killed / "step_00000010", files))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(10))
