"""Captions on the engine: resumed runs and two ranks yield the same result; a run folder is all that a test needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.finetune.jobs import Job, run_jobs
from tests.finetune.tasks.captioning.small_captions import captions_of, settings, small_config, write_shards
from trichord.core.errors import UserError
from trichord.core.yaml_subset import read_yaml, write_yaml
from trichord.finetune.config import read_config
from trichord.finetune.evaluation import evaluate as evaluating
from trichord.finetune.tasks.captioning.vocabulary import Vocabulary
from trichord.launch import cli
from trichord.pretrain.engine import checkpoint_files
from trichord.pretrain.engine import run as engine_run
from trichord.pretrain.engine.device import Peak
from trichord.pretrain.engine.training import build

CASES: dict[str, dict[str, Any]] = {
    "frozen": {
        **{"objective__frozen": True, "objective__language__dropout": 0.0, "engine__accumulation": 2},
        "objective__decoding": {"kind": "greedy"},
    },
    "whole": {"backbone__drop_path": 0.2, "objective__language__dropout": 0.2, "engine__zero_stage": 3},
}
CLIPS = 14  # not a multiple of the batch size, so that the last batches are padded
FOUR_STEPS: dict[str, Any] = {"steps": 4, "checkpoints__every_steps": 2}
TWO_RANKS: dict[str, Any] = {**CASES["frozen"], **FOUR_STEPS, "engine__accumulation": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run each case in one go and resumed from its middle, and the one without randomness on two ranks."""
    top = tmp_path_factory.mktemp("captions")
    shards = write_shards(top / "shards", CLIPS)
    with pytest.MonkeyPatch.context() as patch:
        # Counting takes seconds at every start, for figures that these tests do not use.
        patch.setattr(engine_run, "training_flops", lambda *_: 0)
        patch.setattr(engine_run, "peak_flops", lambda *_: Peak(1.0, "known", "none"))
        for name, changes in CASES.items():
            engine_run.pretrain(small_config(shards, **changes, **FOUR_STEPS), top / f"whole_{name}")
            middle = f"checkpoints/{checkpoint_files.name_of(2)}"
            shutil.copytree(top / f"whole_{name}" / middle, top / f"halved_{name}" / middle)
            engine_run.pretrain(small_config(shards, **changes, **FOUR_STEPS), top / f"halved_{name}")
    (found,) = run_jobs([Job(str(top / "two"), str(shards), "captions", TWO_RANKS)], 2)
    (top / "found.json").write_text(json.dumps(found))
    return top


def tensors(run: Path, step: int = 4) -> dict[str, Tensor]:
    path = run / "checkpoints" / checkpoint_files.name_of(step)
    return dict(checkpoint_files.read_tensors(path, sorted(checkpoint_files.read_index(path).files)))


def lines(run: Path, name: str = "shards") -> list[dict[str, Any]]:
    (path,) = (run / "evaluations").glob(f"{name}_step_*.captions.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_two_and_two_steps_equal_four(runs: Path, name: str) -> None:
    whole, halved = tensors(runs / f"whole_{name}"), tensors(runs / f"halved_{name}")
    assert whole.keys() == halved.keys() and "tokenizer" in whole
    for tensor in whole:
        assert torch.equal(whole[tensor], halved[tensor]), tensor


def test_two_ranks_and_two_parts_equal_one(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [
        [json.loads(line)["loss"] for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole_frozen", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    one, two = tensors(runs / "whole_frozen"), tensors(runs / "two")
    for tensor in one:
        torch.testing.assert_close(two[tensor], one[tensor], atol=2e-5, rtol=1e-3, msg=tensor)
    found = json.loads((runs / "found.json").read_text())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the ranks had
    alone = evaluating.evaluate(runs / "two", [], [], "alone")
    assert found["metrics"] == alone["metrics"] and lines(runs / "two", "alone") == lines(runs / "two")


def test_every_clip_has_a_caption_and_its_references(runs: Path) -> None:
    written = lines(runs / "two")
    assert [clip["key"] for clip in written] == [f"clip{number:03d}" for number in range(CLIPS)]
    assert [clip["references"] for clip in written] == [captions_of(number) for number in range(CLIPS)]
    found = json.loads((runs / "found.json").read_text())
    assert (found["clips"], found["without_caption"], found["bad"]) == (CLIPS, 2, 0)
    assert found["model"]["head"] == "GPT-2 from scratch 1x16 on all tokens, mapped"
    assert found["views"] == "1 clip of a video, greedy"
    table = Path(found["files"][1]).read_text()
    assert "| metric | value | low | high | one caption | library |" in table and "14 clips, 0 bad, 2 without" in table
    assert f"| BLEU-4 | {found['metrics']['BLEU-4']:.4f} |" in table and "- METEOR is left out" in table


def test_run_folder_is_all_that_a_test_needs(runs: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.of_tensor(tensors(runs / "whole_frozen")["tokenizer"])
    assert 257 < len(vocabulary) <= 280
    other = write_shards(tmp_path / "other", 4)
    way = ["objective.decoding.kind=nucleus", "objective.decoding.top_p=0.5"]
    found = evaluating.evaluate(runs / "whole_frozen", [str(other)], way, "drawn")
    assert found["clips"] == 4 and "nucleus sampling, top_p 0.5" in found["views"]
    again = evaluating.evaluate(runs / "whole_frozen", [str(other)], way, "again")
    assert again["metrics"] == found["metrics"]


def test_more_frames_start_from_the_backbone_with_an_interpolated_temporal_table(runs: Path) -> None:
    clips = {"kind": "segments", "frames": 4, "placement": "centre"}
    config = small_config(
        runs / "shards",
        init_from={"path": str(runs / "whole_whole")},
        backbone__frames=4,
        objective__clips=clips,
        objective__test_clips=clips,
        objective__frozen=True,
        objective__trained=["time_embed"],
    )
    objective = build(config)
    config.begin(objective)
    learnt, begun = tensors(runs / "whole_whole"), objective.state_dict()
    backbone = {name for name in learnt if name.startswith("video.backbone.")}
    assert all(torch.equal(begun[name], learnt[name]) for name in backbone - {"video.backbone.time_embed"})
    before, after = (each["video.backbone.time_embed"].squeeze(0) for each in (learnt, begun))
    assert (len(before), len(after)) == (2, 4)
    low, high = before.amin(dim=0) - 1e-6, before.amax(dim=0) + 1e-6
    assert bool(((after >= low) & (after <= high)).all())  # each is one of the original rows, or between two of them


def test_variants_are_launched_as_one_array(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    recipe = tmp_path / "told.yaml"
    recipe.write_text(write_yaml(settings(runs / "shards", steps=2)))
    sweep = ["objective.memory={tokens: pooled},{tokens: all}", "objective.frozen=true,false"]
    typed = ["finetune", str(recipe), *sweep, "--run", str(tmp_path / "variants")]
    assert cli.main(["launch", "--cluster", "slurm", "--dry-run", "--json", *typed]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert "--array=0-3" in row["sbatch"] and len(row["commands"]) == 4
    configs = [
        read_config(read_yaml(text, name)) for name, text in row["files"].items() if name.endswith("config.yaml")
    ]
    found = {(config.objective.memory.tokens, config.objective.frozen) for config in configs}  # type: ignore[union-attr]
    assert found == {(tokens, frozen) for tokens in ("pooled", "all") for frozen in (True, False)}
    assert not (tmp_path / "variants").exists()


def test_shards_without_captions_are_an_error(runs: Path, tmp_path: Path) -> None:
    from tests.finetune import small_head

    bare = small_head.write_shards(tmp_path / "bare", 4)
    with pytest.raises(UserError, match=r"bare has no captions to train on"):
        config = small_config(bare)
        config.begin(config.build_objective())
    with pytest.raises(UserError, match=r"bare has no captions to compare with"):
        evaluating.evaluate(runs / "whole_frozen", [str(bare)], [], None)
