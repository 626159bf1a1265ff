"""The experiments with heads and captions at a small size, with the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.learning import captions, charades, experiment, synthetic_clips
from benchmarks.learning.experiment import UNTRAINED, Rows
from benchmarks.learning.synthetic_clips import CHARADES_RULES, PRETRAINING_RULES, HeadShards, make_head_shards
from benchmarks.learning.transfer import SVT, VIDEO_TEXT, PretrainedBackbones, run_name, split_overrides
from tests.finetune.jobs import without_counting
from trichord.finetune.config import read_config
from trichord.launch.cli import main
from trichord.pretrain.weights.export import read_part
from trichord.shards.reading.manifest import Manifest

CLIPS = 20
TINY = (
    *("pretraining.steps=2", "pretraining.data.batch_size=8", "pretraining.backbone.depth=1"),
    *("pretraining.optimiser.learning_rate=1e-3", "pretraining.data.workers=0"),
    *("steps=2", "data.batch_size=8", "optimiser.learning_rate=1e-3"),
)
TINY_WORDS = ("objective.language.depth=1", "objective.language.longest=6", "objective.decoding.kind=greedy")
SMALL = {"frame_sizes": ((32, 32),), "fps": (6,)}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make the clips small and do not count operations; yield a folder that all experiments of this file share."""
    with pytest.MonkeyPatch.context() as patch, without_counting():
        patch.setattr(
            synthetic_clips, "CHARADES_RULES", CHARADES_RULES.model_copy(update={**SMALL, "clips_per_group": 1})
        )
        patch.setattr(synthetic_clips, "PRETRAINING_RULES", PRETRAINING_RULES.model_copy(update=SMALL))
        yield tmp_path_factory.mktemp("heads")


def refuse(*_: object) -> float:
    raise AssertionError("trained again")


def column(rows: Rows, name: str) -> list[object]:
    return [row[name] for row in rows]


def test_heads_are_compared_with_an_untrained_backbone_and_constant_scores(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = charades.run_and_report(out, [0], CLIPS, TINY)
    figures, intervals, goals, seconds = tables.values()
    assert column(figures, "figure")[:2] == ["mAP", "mAP, windows overlap"]
    assert {UNTRAINED, SVT, VIDEO_TEXT} < figures[0].keys() and len(figures) == 8
    (untrained,) = [each[UNTRAINED] for each in json.loads((out / "heads/results.json").read_text())["seeds"]]
    low, value, high = (untrained["figures"][f"mAP_charades{end}"] for end in (", low", "", ", high"))
    assert low <= value <= high
    assert intervals[0][UNTRAINED] == f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    assert [row["goal"] for row in goals[-2:]] == [f"{way}: overlap loses nothing" for way in (SVT, VIDEO_TEXT)]
    assert set(seconds[0]) == {"seed", SVT, VIDEO_TEXT}
    monkeypatch.setattr(experiment, "train", refuse)
    assert charades.run_and_report(out, [0], CLIPS, TINY)["goals, in per cent"] == goals
    with pytest.raises(AssertionError, match="trained again"):
        charades.run_and_report(out, [0], CLIPS, (*TINY, "optimiser.weight_decay=0.5"))


def test_captions_are_compared_with_an_untrained_backbone_and_a_constant_caption(out: Path) -> None:
    tables = captions.run_and_report(out, [0], CLIPS, (*TINY, *TINY_WORDS))
    figures, intervals, goals, _ = tables.values()
    assert column(figures, "figure")[-6:-1] == ["CIDEr-D", *captions.RIGHT]
    assert column(goals, "goal") == [f"{VIDEO_TEXT} beats {UNTRAINED}"] * 6
    assert {row["figure"] for row in intervals} == {"BLEU-4", "CIDEr-D", *captions.RIGHT}
    constant = {row["figure"]: row["chance"] for row in figures}
    assert float(str(constant["BLEU-4"])) > 5 and constant["distinct captions"] == f"{100 / clips_of_the_test(out):.1f}"


def test_variants_are_one_sweep_that_can_be_compared(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ((title, rows), _) = captions.run_and_report_variants(out, [0], CLIPS, (*TINY, *TINY_WORDS)).items()
    assert "variants" in title and column(rows, "variant") == [
        *captions.VARIANTS,
        "one caption",
        *captions.THEIRS,
    ]
    assert len({json.dumps(captions.VARIANTS[name]) for name in captions.VARIANTS}) == 6
    assert main(["compare", str(out / "variants"), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["rows"]
    by_run = {Path(row["run"]).name: row for row in compared}
    assert by_run.keys() == {run_name(name, 0) for name in captions.VARIANTS}
    for name in captions.VARIANTS:
        found = by_run[run_name(name, 0)]
        printed = next(row for row in rows if row["variant"] == name)
        assert printed["BLEU-4"] == f"{100 * found['BLEU-4']:.1f} ± 0.0"
        assert (found["trained"] == "all") == name.startswith("trained")
        assert {"BLEU-1", "BLEU-2", "BLEU-3", "ROUGE-1", "ROUGE-2", "ROUGE-L", "CIDEr-D"} < found.keys()


def test_untrained_backbone_is_the_same_network_with_other_weights(out: Path) -> None:
    made = PretrainedBackbones(out, make_head_shards(out, CLIPS), 0, TINY)
    pretrained, fresh = made.head_config(VIDEO_TEXT, charades.RECIPE), made.head_config(UNTRAINED, charades.RECIPE)
    assert pretrained.pretrained == "video_text" and fresh.pretrained is None and fresh.init_from is None
    alike = {"init_from", "pretrained"}
    assert pretrained.model_dump(exclude=alike) == fresh.model_dump(exclude=alike)
    learnt, _, _ = read_part(made.run(VIDEO_TEXT), read=read_config)
    frozen, _, _ = read_part(out / "heads" / run_name(VIDEO_TEXT, 0), read=read_config)
    other, _, _ = read_part(out / "heads" / run_name(UNTRAINED, 0), read=read_config)
    names = [name for name in frozen if name.startswith("backbone.")]
    assert names and all(torch.equal(frozen[name], learnt[name]) for name in names)
    assert any(not torch.equal(frozen[name], other[name]) for name in names)


def test_pretraining_clips_differ_from_those_of_heads(out: Path) -> None:
    made: HeadShards = make_head_shards(out, CLIPS)
    assert synthetic_clips.PRETRAINING_RULES.captions == synthetic_clips.CHARADES_RULES.captions == 5
    digests = {Manifest.load(root).digest() for root in made}
    assert len(digests) == 3
    assert sum(sum(entry.samples for entry in Manifest.load(root).shards) for root in made) == 2.5 * CLIPS


def test_overrides_with_a_prefix_are_those_of_pretraining() -> None:
    assert split_overrides(["steps=3", "pretraining.steps=9"]) == (["steps=9"], ["steps=3"])


def clips_of_the_test(out: Path) -> int:
    """Return the number of test clips."""
    manifest = Manifest.load(str(out / "charades/shards/test"))
    return sum(entry.samples for entry in manifest.shards)
