"""Captions on the engine: resumed runs end as others do, two ranks as one; a run's folder is all that a test needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune import evaluate as evaluating
from finetune.captions.vocabulary import Vocabulary
from pretrain.engine import checkpoint_files
from shards.errors import UserError
from tests.finetune.captions.small_captions import captions_of, small_config, write_shards
from tests.finetune.jobs import Job, run_jobs

CASES: dict[str, dict[str, Any]] = {
    "frozen": {"objective__frozen": True, "objective__decoding": {"kind": "greedy"}, "engine__accumulation": 2},
    "whole": {"backbone__drop_path": 0.2, "objective__language__dropout": 0.2, "engine__zero_stage": 2},
}
CLIPS = 14  # not a multiple of anything, so that the last batches are padded
PLAIN: dict[str, Any] = {"objective__language__dropout": 0.0, **CASES["frozen"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run each case whole and from its middle, and one on two ranks and in two parts."""
    top = tmp_path_factory.mktemp("captions")
    shards = str(write_shards(top / "shards", CLIPS))

    def job(name: str, changes: dict[str, Any], begin_with: str = "") -> Job:
        return Job(str(top / name), shards, begin_with, "captions", changes)

    first = [job(f"whole_{name}", changes) for name, changes in CASES.items()]
    middle = {name: str(top / f"whole_{name}/checkpoints/step_00000003") for name in CASES}
    third = [job(f"halved_{name}", changes, middle[name]) for name, changes in CASES.items()]
    one = job("one", {**PLAIN, "engine__accumulation": 1})
    found = {"one": run_jobs([*first, *third, one], 1), "two": run_jobs([job("two", PLAIN)], 2)}
    (top / "found.json").write_text(json.dumps(found))
    return top


def tensors(run: Path, step: int = 6) -> dict[str, Tensor]:
    path = run / "checkpoints" / checkpoint_files.name_of(step)
    return dict(checkpoint_files.read_tensors(path, sorted(checkpoint_files.read_index(path).files)))


def lines(run: Path) -> list[dict[str, Any]]:
    (path,) = (run / "evaluations").glob("shards_step_*.captions.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_three_and_three_steps_are_six(runs: Path, name: str) -> None:
    whole, halved = tensors(runs / f"whole_{name}"), tensors(runs / f"halved_{name}")
    assert whole.keys() == halved.keys() and "tokenizer" in whole
    for tensor in whole:
        assert torch.equal(whole[tensor], halved[tensor]), tensor


def test_two_ranks_and_two_parts_are_one(runs: Path) -> None:
    losses = [
        [json.loads(line)["loss"] for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    one, two = tensors(runs / "one"), tensors(runs / "two")
    for tensor in one:
        torch.testing.assert_close(two[tensor], one[tensor], atol=2e-5, rtol=1e-3, msg=tensor)
    assert [clip["caption"] for clip in lines(runs / "two")] == [clip["caption"] for clip in lines(runs / "one")]
    found = json.loads((runs / "found.json").read_text())
    assert found["two"][0]["metrics"] == pytest.approx(found["one"][-1]["metrics"])


def test_every_clip_gets_a_caption_beside_its_references(runs: Path) -> None:
    told = lines(runs / "two")
    assert [clip["key"] for clip in told] == [f"clip{number:03d}" for number in range(CLIPS)]
    assert [clip["references"] for clip in told] == [captions_of(number) for number in range(CLIPS)]
    found = json.loads((runs / "found.json").read_text())["two"][0]
    assert (found["clips"], found["without_caption"], found["bad"]) == (CLIPS, 2, 0)
    assert found["model"]["head"] == "GPT-2 from scratch 1x16 on all tokens, mapped"
    assert found["views"] == "1 clip of a video, greedy"
    table = Path(found["files"][1]).read_text()
    assert "| metric | value | low | high | one caption | library |" in table and "14 clips, 0 bad, 2 without" in table
    assert f"| BLEU-4 | {found['metrics']['BLEU-4']:.4f} |" in table and "- METEOR is left out" in table


def test_a_run_s_folder_is_all_that_a_test_needs(runs: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.of_tensor(tensors(runs / "one")["tokenizer"])
    assert 257 < len(vocabulary) <= 280
    other = write_shards(tmp_path / "other", 4)
    way = ["objective.decoding.kind=nucleus", "objective.decoding.top_p=0.5", "data.batch_size=4"]
    found = evaluating.evaluate(runs / "one", [str(other)], way, "drawn")
    assert found["clips"] == 4 and "drawn from the likeliest 0.5" in found["views"]
    again = evaluating.evaluate(runs / "one", [str(other)], way, "again")
    assert again["metrics"] == found["metrics"]


def test_shards_without_captions_are_told_so(runs: Path, tmp_path: Path) -> None:
    from tests.finetune import small_head

    bare = small_head.write_shards(tmp_path / "bare", 4)
    with pytest.raises(UserError, match=r"bare has no captions, and there is nothing to learn from"):
        config = small_config(bare)
        config.begin(config.build_objective())
    with pytest.raises(UserError, match=r"bare has no captions to compare with"):
        evaluating.evaluate(runs / "one", [str(bare)], ["data.batch_size=4"], None)
