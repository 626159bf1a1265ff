"""Resuming: five and five steps equal ten, bit for bit, for every ZeRO stage, and the number of ranks may change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.pretrain.engine.jobs import Drawn, Job, run_jobs
from tests.pretrain.engine.small_run import write_shards
from trichord.pretrain.engine import checkpoint_files

STAGES = (0, 1, 2, 3)
BETWEEN = (0, 2, 3)  # stages that a run moves between; 1 keeps its state like 2
FIFTH = Path("checkpoints/step_00000005")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("small") / "shards")


def _tensors(run: Path, step: int = 10) -> dict[str, Tensor]:
    path = run / "checkpoints" / checkpoint_files.name_of(step)
    return dict(checkpoint_files.read_tensors(path, sorted(checkpoint_files.read_index(path).files)))


def _figures(run: Path, name: str) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in rows}


def _losses(run: Path) -> dict[int, float]:
    return _figures(run, "loss")


@pytest.mark.parametrize(("ranks", "threads", "stages"), [(1, 1, (0, 3)), (2, 1, STAGES), (1, 2, (0,))])
def test_five_and_five_steps_equal_ten_under_every_zero_stage(
    ranks: int, threads: int, stages: tuple[int, ...], shards: Path, tmp_path: Path
) -> None:
    jobs = []
    for stage in stages:
        whole, changes = tmp_path / f"whole{stage}", {"engine__zero_stage": stage, "backbone__drop_path": 0.2}
        jobs += [Job(whole, None, changes), Job(tmp_path / f"halved{stage}", whole / FIFTH, changes)]
    drawn = run_jobs(shards, jobs, ranks, threads)
    assert {of_rank["threads"] for of_job in drawn for of_rank in of_job} == {threads}
    for number, stage in enumerate(stages):
        whole, halved = _tensors(tmp_path / f"whole{stage}"), _tensors(tmp_path / f"halved{stage}")
        assert "centre_K" in whole and "exp_avg_sq:student.head.last_layer.weight_v" in whole
        assert whole.keys() == halved.keys()
        for name in whole:
            assert torch.equal(whole[name], halved[name]), name
        for of_whole, of_halved in zip(drawn[2 * number], drawn[2 * number + 1], strict=True):
            assert of_halved["keys"] == of_whole["keys"][5:] and len(of_halved["keys"]) == 5
            assert (of_halved["rng"], of_halved["next"]) == (of_whole["rng"], of_whole["next"])
    plain, norms = _tensors(tmp_path / "whole0"), _figures(tmp_path / "whole0", "gradient_norm")
    for stage in stages[1:]:
        assert _figures(tmp_path / f"whole{stage}", "gradient_norm") == pytest.approx(norms, rel=1e-3)
        for name, tensor in _tensors(tmp_path / f"whole{stage}").items():
            torch.testing.assert_close(tensor, plain[name], atol=2e-5, rtol=1e-4, msg=f"stage {stage}: {name}")


def test_result_does_not_depend_on_the_number_of_ranks_before_and_after_a_resume(shards: Path, tmp_path: Path) -> None:
    """2 -> 1 -> 2 ranks under several ZeRO stages; the last resume also changes the stage."""

    def job(name: str, stage: int, begin_with: str = "") -> Job:
        changes = {"engine__zero_stage": stage, "checkpoints__every_steps": 4, "steps": 12}
        return Job(tmp_path / f"{name}{stage}", tmp_path / begin_with if begin_with else None, changes)

    two: list[Drawn] = run_jobs(shards, [job("two", stage) for stage in BETWEEN], 2)
    on_one = [job("one", 0)] + [job("moved", s, f"two{s}/checkpoints/step_00000004") for s in BETWEEN]
    one = run_jobs(shards, on_one, 1)
    next_of = dict(zip(BETWEEN, (*BETWEEN[1:], 0), strict=True))
    back = [job("back", next_of[s], f"moved{s}/checkpoints/step_00000008") for s in BETWEEN]
    back_drawn = run_jobs(shards, back, 2)

    reference, keys = _losses(tmp_path / "one0"), one[0][0]["keys"]
    for number, stage in enumerate(BETWEEN):
        runs = {f"two{stage}": 0, f"moved{stage}": 4, f"back{stage}": 8}
        for name, start in runs.items():
            losses = _losses(tmp_path / name)
            assert list(losses) == list(range(start, 12))
            for step, loss in losses.items():
                assert loss == pytest.approx(reference[step], abs=2e-5), f"{name}, step {step}"
        assert one[1 + number][0]["keys"] == keys[4:]
        for drawn, start in ((two[number], 0), (back_drawn[number], 8)):
            halves = [[line.split(": ")[1] for line in of_rank["keys"]] for of_rank in drawn]
            assert [" ".join(both) for both in zip(*halves, strict=True)] == [k.split(": ")[1] for k in keys[start:]]
