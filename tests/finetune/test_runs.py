"""Heads on the engine: resumed runs and two ranks yield the same result, and frozen weights do not change."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from tests.finetune.jobs import Job, run_jobs
from tests.finetune.small_head import (
    BINARY,
    BOTH,
    CLASSES,
    SLIDING,
    intervals_of,
    labels_of,
    settings,
    small_config,
    write_shards,
)
from trichord.core.errors import UserError
from trichord.core.yaml_subset import write_yaml
from trichord.finetune.evaluation import evaluate as evaluating
from trichord.finetune.recipe import read_run
from trichord.finetune.tasks.classification import evaluation
from trichord.finetune.tasks.classification.metrics import average_precision
from trichord.finetune.tasks.classification.model import Classification
from trichord.finetune.tasks.classification.scoring import Scored
from trichord.launch import cli
from trichord.launch.history import read_history
from trichord.launch.work import JobCommand
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.engine.training import build
from trichord.pretrain.weights.export import read_part

CASES: dict[str, dict[str, Any]] = {
    "both": {**BOTH, "backbone__drop_path": 0.2, "objective__head": {"hidden": [8], "dropout": 0.3, "pool": "mean"}},
    "frozen": {"objective__frozen": True, "objective__head": {"pool": "attention", "pool_heads": 2}},
    "binary": {**BINARY, **SLIDING, "engine__zero_stage": 3, "objective__head": {"pool": "weighted"}},
}
ON_TWO = ("frozen", "binary")  # dropout draws by rank
CLIPS = 14  # not a multiple of the batch size, so that the last batches are padded


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, quick_starts: None) -> Path:
    """Run each case in one go and resumed from its middle, and those without randomness on two ranks."""
    top = tmp_path_factory.mktemp("heads")
    for several in (False, True):
        write_shards(top / f"shards{several:d}", CLIPS, several)
    shards = {name: top / f"shards{name == 'binary':d}" for name in CASES}
    for name, changes in CASES.items():
        engine_run.pretrain(small_config(shards[name], **changes), top / f"whole_{name}")
        middle = f"checkpoints/{checkpoint_files.name_of(2)}"
        shutil.copytree(top / f"whole_{name}" / middle, top / f"halved_{name}" / middle)
        engine_run.pretrain(small_config(shards[name], **changes), top / f"halved_{name}")
    jobs = [Job(str(top / f"two_{name}"), str(shards[name]), changes=CASES[name]) for name in ON_TWO]
    (top / "found.json").write_text(json.dumps(dict(zip(ON_TWO, run_jobs(jobs, 2), strict=True))))
    return top


def tensors(run: Path, step: int = 4) -> dict[str, Tensor]:
    path = run / "checkpoints" / checkpoint_files.name_of(step)
    return dict(checkpoint_files.read_tensors(path, sorted(checkpoint_files.read_index(path).files)))


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_two_and_two_steps_equal_four(runs: Path, name: str) -> None:
    whole, halved = tensors(runs / f"whole_{name}"), tensors(runs / f"halved_{name}")
    assert whole.keys() == halved.keys()
    for tensor in whole:
        assert torch.equal(whole[tensor], halved[tensor]), tensor


def test_job_at_its_time_limit_is_requeued_and_ends_with_the_same_result(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(write_yaml(settings(runs / "shards0", **CASES["frozen"], checkpoints__every_steps=10)))
    work = JobCommand(("finetune", str(recipe), "--run", str(tmp_path / "run")), tmp_path / "run", True, 3, 5.0)
    (tmp_path / "run/logs").mkdir(parents=True)
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "7")
    monkeypatch.setattr("trichord.launch.work._ignore_warnings", lambda: None)  # this process continues
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)

    def warn(self: Classification, step: int) -> None:
        if step == 0:
            os.kill(os.getpid(), signal.SIGUSR2)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "after_update", warn)
        with pytest.raises(SystemExit, match="144"):  # for submitit to start it again
            work()
    assert read_history(tmp_path / "run")[-1].how == "requeued"  # type: ignore[union-attr]
    (saved,) = (tmp_path / "run/checkpoints").glob("step_*")
    assert checkpoint_files.read_index(saved).step < 4
    work()
    assert read_history(tmp_path / "run")[-1].how == "finished"  # type: ignore[union-attr]
    expected, found = tensors(runs / "whole_frozen"), tensors(tmp_path / "run")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("name", ON_TWO)
def test_two_ranks_equal_one(runs: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert losses(runs / f"two_{name}") == pytest.approx(losses(runs / f"whole_{name}"), abs=2e-5)
    one, two = tensors(runs / f"whole_{name}"), tensors(runs / f"two_{name}")
    for tensor in one:
        torch.testing.assert_close(two[tensor], one[tensor], atol=2e-5, rtol=1e-3, msg=tensor)
    found = json.loads((runs / "found.json").read_text())[name]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the ranks had
    alone = evaluating.evaluate(runs / f"two_{name}", [], [], "alone")
    for key in ("metrics", "figures", "classes", "clips", "bad", "views"):
        assert found[key] == alone[key], key
    assert found["clips"] == CLIPS


def test_run_under_stage_3_does_not_change_torch(runs: Path) -> None:
    assert CASES["binary"]["engine__zero_stage"] == 3 and functional.linear is torch._C._nn.linear


def test_frozen_weights_do_not_change(runs: Path) -> None:
    began = build(small_config(runs / "shards0", **CASES["frozen"])).state_dict()
    ended = tensors(runs / "whole_frozen")
    frozen = [name for name in began if name.startswith("video.backbone.")]
    assert frozen and all(torch.equal(began[name], ended[name]) for name in frozen)
    assert not torch.equal(began["head.1.weight"], ended["head.1.weight"])
    assert not [name for name in ended if name.startswith("exp_avg") and "backbone" in name]
    moved = tensors(runs / "whole_both")
    assert not torch.equal(build(small_config(runs, **CASES["both"])).state_dict()["video.backbone.cls_token"],
                           moved["video.backbone.cls_token"])  # fmt: skip


def test_every_video_is_scored_once_by_windows_and_figures_follow_from_the_scores(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Scored] = []
    score = evaluation.score

    def keep(*arguments: Any) -> Scored:
        kept.append(score(*arguments))
        return kept[-1]

    monkeypatch.setattr(evaluation, "score", keep)
    found = evaluating.evaluate(runs / "whole_binary", [str(runs / "shards1")], [], "again", "svg", batch_size=4)
    (tested,) = kept
    truths = [[label in labels_of(number, True) for label in range(len(CLASSES))] for number in range(CLIPS)]
    assert tested.truths_NK.tolist() == truths and tested.bad == 0
    assert [video.key for video in tested.videos] == [f"clip{number:03d}" for number in range(CLIPS)]
    for number, video in enumerate(tested.videos):
        seconds = (8 + number // 2) / 25
        assert video.duration_s == pytest.approx(seconds)
        starts = [0.12 * window for window in range(6) if 0.12 * window < seconds - 1e-6]
        assert [start for start, _ in video.clips_s] == pytest.approx(starts)
        assert [each.model_dump() for each in video.intervals] == intervals_of(number)
        assert tested.scores_NK[number] == pytest.approx(video.given_CK.amax(dim=0).numpy())
    expected = [average_precision(tested.scores_NK[:, k], np.array(truths)[:, k]) for k in range(4)]
    assert [row["average_precision"] for row in found["classes"]] == expected and expected[3] is None
    metrics = found["metrics"]
    assert metrics["mAP"] == pytest.approx(np.mean(expected[:3])) and metrics["classes_with_clips"] == 3  # type: ignore[arg-type]
    assert metrics["localisation_mAP_charades"] == pytest.approx(localised(tested))
    assert {row["metric"] for row in found["figures"]} == metrics.keys()
    for row in (*found["figures"], *({"value": r["average_precision"], **r} for r in found["classes"][:3])):
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]
    report = runs / "whole_binary/evaluations/again_step_00000004"
    assert json.loads(report.with_suffix(".json").read_text())["metrics"] == metrics
    table = report.with_suffix(".md").read_text()
    assert f"| mAP | {metrics['mAP']:.4f} |" in table
    assert "windows of 0.16 s every 0.12 s, maximum of sigmoids" in table
    assert [Path(path).exists() for path in found["files"]] == [True] * 7
    assert "![timeline clip001](again_step_00000004.timeline_clip001.svg)" in table


def localised(tested: Scored) -> float:
    """Score 25 instants of each video, and sort all instants of a class, by the official rules."""
    looks: list[tuple[list[float], list[bool]]] = []
    for video in tested.videos:
        for j in range(25):
            t = j / 25 * video.duration_s
            holders = [row for (start, end), row in zip(video.clips_s, video.given_CK, strict=True) if start <= t < end]
            scores = [max(float(row[k]) for row in holders) for k in range(3)]
            looks.append(
                (scores, [any(i.label == k and i.start <= t <= i.end for i in video.intervals) for k in range(3)])
            )
    precisions = []
    for k in range(3):
        ranked = [truths[k] for _, truths in sorted(looks, key=lambda look: -look[0][k])]
        right = np.cumsum(ranked)
        precisions.append(np.mean([right[place] / (place + 1) for place, is_right in enumerate(ranked) if is_right]))
    return float(np.mean(precisions))


def test_weights_come_from_a_pretraining_run_strictly(runs: Path, svt: Path) -> None:
    shards, backbone = runs / "shards0", read_run(svt)["backbone"]
    config = small_config(shards, backbone=backbone, init_from={"path": str(svt)})
    objective = build(config)
    config.begin(objective)
    teacher, _, _ = read_part(svt)
    student, _, _ = read_part(svt, "student")
    own = objective.state_dict()
    for name, tensor in teacher.items():
        if name.startswith("backbone."):
            assert torch.equal(own[f"video.{name}"], tensor), name
    named = small_config(shards, backbone=backbone, init_from={"path": str(svt), "part": "student"})
    named.begin(objective)
    assert torch.equal(objective.state_dict()["video.backbone.cls_token"], student["backbone.cls_token"])
    wider = small_config(shards, backbone={**backbone, "depth": 3}, init_from={"path": str(svt)})
    with pytest.raises(UserError, match=r"not in the file: backbone\.blocks\.2"):
        wider.begin(build(wider))


def test_backbone_of_a_head_can_be_exported_and_initialises_another(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "video.safetensors"
    assert cli.main(["export", str(runs / "whole_both"), "--out", str(out)]) == 0
    exported, own = load_file(out), tensors(runs / "whole_both")
    assert exported and all(torch.equal(own[f"video.{name}"], tensor) for name, tensor in exported.items())
    config = small_config(runs / "shards0", init_from={"path": str(out), "allow_unused": ["pool.*"]})
    config.begin(objective := build(config))
    begun = objective.state_dict()
    names = [name for name in exported if name.startswith("backbone.")]
    assert names and all(torch.equal(begun[f"video.{name}"], exported[name]) for name in names)


def test_bad_clips_are_counted_and_excluded(tmp_path: Path, runs: Path) -> None:
    shards = write_shards(tmp_path / "shards", 8)
    tar = bytearray((shards / "00001.tar").read_bytes())
    at = tar.index(b"ftyp")
    tar[at - 4 : at + 400] = bytes(404)
    (shards / "00001.tar").write_bytes(tar)
    found = evaluating.evaluate(runs / "whole_frozen", [str(shards)], ["data.max_bad_fraction=0.5"], None)
    assert (found["clips"], found["bad"]) == (7, 1)
