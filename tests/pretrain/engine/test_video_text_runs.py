"""Video-text runs with the whole engine: parts, stages and a resume do not change the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pretrain.engine.jobs import Job, run_jobs
from tests.pretrain.engine.small_run import video_text_changes, write_shards
from trichord.pretrain.engine import checkpoint_files

FIRST, LAST = Path("checkpoints/step_00000003"), "checkpoints/step_00000006"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("video_text") / "shards", text=True)


def _weights(run: Path) -> dict[str, Tensor]:
    path = run / LAST
    names = sorted(name for name in checkpoint_files.read_index(path).files if name.startswith("weights-"))
    return dict(checkpoint_files.read_tensors(path, names))


def test_parts_and_stages_yield_close_weights_and_a_resume_identical_ones(shards: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {**video_text_changes(), "steps": 6, "checkpoints__every_steps": 3}
    parted = {**common, "engine__accumulation": 2}
    jobs = [Job(tmp_path / "whole", None, common)]
    for stage in (0, 2, 3):
        jobs.append(Job(tmp_path / f"stage{stage}", None, {**parted, "engine__zero_stage": stage}))
    jobs.append(Job(tmp_path / "halved", tmp_path / "stage0" / FIRST, parted))
    run_jobs(shards, jobs, ranks=2)
    whole, once = _weights(tmp_path / "whole"), _weights(tmp_path / "stage0")
    assert {"video.scale.log", "video.prompts.share", "video.text.token_embed.weight"} <= whole.keys()
    for name, tensor in _weights(tmp_path / "halved").items():
        assert torch.equal(tensor, once[name]), name
    for run in ("stage0", "stage2", "stage3"):
        for name, tensor in _weights(tmp_path / run).items():
            if name.endswith(
                "attn.qkv.bias"
            ):  # the bias of keys has no effect: its gradient is noise, which Adam amplifies
                continue
            torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=2e-5, msg=f"{run}: {name}")
