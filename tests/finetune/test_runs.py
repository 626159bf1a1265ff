"""Heads on the engine: resumed runs end as others do, two ranks as one, frozen weights as they began."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune import evaluate as evaluating
from finetune.metrics import average_precision
from pretrain.engine import checkpoint_files
from pretrain.engine import run as engine_run
from pretrain.engine.training import build
from pretrain.export import read_part
from shards.errors import UserError
from tests.finetune.jobs import Job, run_jobs
from tests.finetune.small_head import BINARY, BOTH, CLASSES, labels_of, small_config, write_shards
from tests.pretrain.engine import small_run

CASES: dict[str, dict[str, Any]] = {
    "both": {**BOTH, "backbone__drop_path": 0.2, "objective__head": {"hidden": [8], "dropout": 0.3, "pool": "mean"}},
    "frozen": {"objective__frozen": True, "objective__head": {"pool": "attention", "pool_heads": 2}},
    "binary": {**BINARY, "engine__zero_stage": 3},
}
CLIPS = 14  # not a multiple of anything, so that the last batches are padded


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run each case whole, from its middle, and on two ranks."""
    top = tmp_path_factory.mktemp("heads")
    for several in (False, True):
        write_shards(top / f"shards{several:d}", CLIPS, several)

    def job(kind: str, name: str, begin_with: str = "") -> Job:
        shards = str(top / f"shards{name == 'binary':d}")
        return Job(str(top / f"{kind}_{name}"), shards, begin_with, CASES[name])

    first = [job("whole", name) for name in CASES]
    third = [job("halved", name, str(top / f"whole_{name}/checkpoints/step_00000003")) for name in CASES]
    found = {"one": run_jobs([*first, *third], 1), "two": run_jobs([job("two", name) for name in CASES], 2)}
    (top / "found.json").write_text(json.dumps(found))
    return top


def tensors(run: Path, step: int = 6) -> dict[str, Tensor]:
    path = run / "checkpoints" / checkpoint_files.name_of(step)
    return dict(checkpoint_files.read_tensors(path, sorted(checkpoint_files.read_index(path).files)))


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_three_and_three_steps_are_six(runs: Path, name: str) -> None:
    whole, halved = tensors(runs / f"whole_{name}"), tensors(runs / f"halved_{name}")
    assert whole.keys() == halved.keys()
    for tensor in whole:
        assert torch.equal(whole[tensor], halved[tensor]), tensor


@pytest.mark.parametrize("name", ["frozen", "binary"])  # dropout draws by rank
def test_two_ranks_are_one(runs: Path, name: str) -> None:
    assert losses(runs / f"two_{name}") == pytest.approx(losses(runs / f"whole_{name}"), abs=2e-5)
    one, two = tensors(runs / f"whole_{name}"), tensors(runs / f"two_{name}")
    for tensor in one:
        torch.testing.assert_close(two[tensor], one[tensor], atol=2e-5, rtol=1e-3, msg=tensor)
    found = json.loads((runs / "found.json").read_text())
    place = list(CASES).index(name)
    for key in ("metrics", "classes", "clips", "bad"):
        assert found["two"][place][key] == found["one"][place][key]
    assert found["two"][place]["clips"] == CLIPS


def test_frozen_weights_end_as_they_began(runs: Path) -> None:
    began = build(small_config(runs / "shards0", **CASES["frozen"])).state_dict()
    ended = tensors(runs / "whole_frozen")
    frozen = [name for name in began if name.startswith("video.backbone.")]
    assert frozen and all(torch.equal(began[name], ended[name]) for name in frozen)
    assert not torch.equal(began["head.1.weight"], ended["head.1.weight"])
    assert not [name for name in ended if name.startswith("exp_avg") and "backbone" in name]
    moved = tensors(runs / "whole_both")
    assert not torch.equal(build(small_config(runs, **CASES["both"])).state_dict()["video.backbone.cls_token"],
                           moved["video.backbone.cls_token"])  # fmt: skip


def test_every_clip_is_scored_once_and_figures_are_those_of_the_scores(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[evaluating.Tested] = []
    score = evaluating.score

    def keep(*arguments: Any) -> evaluating.Tested:
        tested.append(score(*arguments))
        return tested[-1]

    monkeypatch.setattr(evaluating, "score", keep)
    found = evaluating.evaluate(runs / "whole_binary", [str(runs / "shards1")], ["data.batch_size=4"], "again")
    truths = [[label in labels_of(number, True) for label in range(len(CLASSES))] for number in range(CLIPS)]
    assert tested[0].truths_NK.tolist() == truths and tested[0].bad == 0
    expected = [average_precision(tested[0].scores_NK[:, k], np.array(truths)[:, k]) for k in range(4)]
    assert [row["average_precision"] for row in found["classes"]] == expected and expected[3] is None
    assert found["metrics"] == {"mAP": pytest.approx(np.mean(expected[:3])), "classes_with_clips": 3}  # type: ignore[arg-type]
    report = runs / "whole_binary/evaluations/again_step_00000006"
    assert json.loads(report.with_suffix(".json").read_text())["metrics"] == found["metrics"]
    assert f"| mAP | {found['metrics']['mAP']:.4f} |" in report.with_suffix(".md").read_text()
    assert "2 views of a clip, sigmoids averaged" in report.with_suffix(".md").read_text()


def test_weights_come_from_a_pretraining_run_strictly(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", 8)
    pretrained = small_run.small_config(small_run.write_shards(tmp_path / "plain"), steps=3)
    engine_run.pretrain(pretrained, tmp_path / "svt")
    backbone = pretrained.backbone.model_dump(mode="json")
    config = small_config(shards, backbone=backbone, init_from={"path": str(tmp_path / "svt")})
    objective = build(config)
    config.begin(objective)
    teacher, _, _ = read_part(tmp_path / "svt")
    student, _, _ = read_part(tmp_path / "svt", "student")
    own = objective.state_dict()
    for name, tensor in teacher.items():
        if name.startswith("backbone."):
            assert torch.equal(own[f"video.{name}"], tensor), name
    named = small_config(shards, backbone=backbone, init_from={"path": str(tmp_path / "svt"), "part": "student"})
    named.begin(objective)
    assert torch.equal(objective.state_dict()["video.backbone.cls_token"], student["backbone.cls_token"])
    wider = small_config(shards, backbone={**backbone, "depth": 3}, init_from={"path": str(tmp_path / "svt")})
    with pytest.raises(UserError, match=r"not in the file: backbone\.blocks\.2"):
        wider.begin(build(wider))


def test_bad_clips_are_counted_and_left_out(tmp_path: Path, runs: Path) -> None:
    shards = write_shards(tmp_path / "shards", 8)
    tar = bytearray((shards / "00001.tar").read_bytes())
    at = tar.index(b"ftyp")
    tar[at - 4 : at + 400] = bytes(404)
    (shards / "00001.tar").write_bytes(tar)
    found = evaluating.evaluate(runs / "whole_frozen", [str(shards)], ["data.max_bad_fraction=0.5"], None)
    assert (found["clips"], found["bad"]) == (7, 1)
