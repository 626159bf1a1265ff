"""Does contrast of videos and captions learn? Pretrains on synthetic clips, then classifies zero-shot and retrieves.

Each seed is trained in three ways: by the recipe, with frames encoded separately and averaged, and, as a control, with
the captions of other clips. Colour, shape and action of test clips are predicted zero-shot among the texts of all
combinations. Half of the test clips show combinations that no training clip shows, and the texts come in a form that
training captions have and in one that they do not have. Captions and clips are retrieved by each other as well.
Legend: N clips, K texts, E features of the space.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.learning.experiment import (
    UNTRAINED,
    Goal,
    Rows,
    Seed,
    WayResult,
    check_goals,
    learn_way,
    rank_row,
    report,
    row,
)
from benchmarks.learning.synthetic_clips import FACTORS, RULES, FactorTransform, make_shards
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.base import Objective, StepOutput
from trichord.pretrain.objectives.video_text import VideoTextSpec
from trichord.pretrain.objectives.video_text.objective import VideoTextObjective
from trichord.pretrain.recipe import load_recipe
from trichord.pretrain.retrieval.ranks import MEDIAN, RECALLS, measure
from trichord.pretrain.retrieval.scores import Side
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.synthetic import CLASSES, COMBINATIONS, caption_of
from trichord.shards.transforms.clip_specs import FullVideo
from trichord.shards.transforms.crops import Squash
from trichord.shards.transforms.mix import Mixing
from trichord.shards.transforms.view_specs import ViewSpec, ViewsSpec

RECIPE = "video_text_synthetic"
UNSEEN_FORMS = 2
CAPTION_RULES = RULES.model_copy(update={"captions": 5, "unsaid_forms": UNSEEN_FORMS})
FORMS = {"known form": 0, "new form": -UNSEEN_FORMS}  # of the texts of the combinations
CLIPS = ("seen", "held out")  # combinations of shape, colour and action
CONTRAST, MEAN, SHUFFLED = "contrast", "frames averaged", "captions shuffled"
WAYS: dict[str, tuple[str, ...]] = {
    CONTRAST: (),
    MEAN: ("backbone.messages=false", "backbone.integration_depth=0"),
    SHUFFLED: (),
}
WHOLE = "all three"
CHANCES = {"shape": 1 / 8, "colour": 1 / 8, "action": 1 / len(CLASSES), WHOLE: 1 / len(COMBINATIONS)}
ALL_WAYS = (UNTRAINED, *WAYS)
DIRECTIONS = ("text to video", "video to text")
GOALS: tuple[Goal, ...] = (
    *((CONTRAST, other, f"held out: {WHOLE}, {form}") for other in (UNTRAINED, SHUFFLED) for form in FORMS),
    *((CONTRAST, other, f"{way}, R@10") for other in (UNTRAINED, SHUFFLED) for way in DIRECTIONS),
    (CONTRAST, MEAN, "held out: action, known form"),
)
_AT_ONCE = 64


class ShuffledCaptions(VideoTextObjective):
    """The control: every clip has the caption of another clip of its batch, a different one each time."""

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        text = batch.text
        return super().training_step(batch.replace(text=[*text[1:], text[0]]), step)


class ShuffledCaptionsConfig(RunConfig):
    """A run of the control."""

    def build_objective(self) -> Objective:
        assert isinstance(self.objective, VideoTextSpec) and self.text_backbone is not None
        towers = self.backbone.build(), self.text_backbone.build()
        return ShuffledCaptions(
            self.objective, *towers, None, Mixing(self.seed, self.data.batch_size // self.data.lanes)
        )


@dataclass(frozen=True)
class CaptionedClips:
    """Decoded test clips, the class of each by factor, whether its combination is held out, and a caption."""

    frames_NCTHW: Tensor
    labels_NF: Tensor
    held_out_N: Tensor
    captions: tuple[str, ...]


def learn(
    out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]
) -> tuple[CaptionedClips, list[dict[str, WayResult]]]:
    """Run all seeds in all ways, except those that an earlier call with the same settings finished."""
    shards = make_shards(out, clips, CAPTION_RULES)
    test = read_clips(shards / "test", _configure(out, seeds[0], overrides))
    return test, [_learn_seed(out, seed, clips, overrides, test) for seed in seeds]


def read_clips(root: Path, config: RunConfig) -> CaptionedClips:
    """Decode all clips of a split, uncropped in time and space."""
    backbone = config.backbone
    assert backbone.kind == "xclip"
    views = ViewsSpec(clips=FullVideo(frames=backbone.frames), views=(ViewSpec(crop=Squash(size=backbone.size)),))
    stream = StreamConfig(sources=(SourceConfig(root=str(root)),), batch_size=_AT_ONCE)
    transform = FactorTransform(SampleSpec(views=views, caption="first", is_training=False))
    frames, labels, captions = [], [], list[str]()
    with contextlib.closing(evaluation_batches(stream, transform)) as batches:
        for batch in batches:
            used = [row for row, is_valid in enumerate(batch.valid.tolist()) if is_valid]
            frames.append(batch.video[0][used])
            labels += [batch.labels[row] for row in used]
            captions += [batch.text[row] for row in used]
    labels_NX = torch.tensor(labels)
    return CaptionedClips(torch.cat(frames), labels_NX[:, :-1], labels_NX[:, -1].bool(), tuple(captions))


def _configure(out: Path, seed: int, overrides: Sequence[str]) -> RunConfig:
    own = (f"data.sources={json.dumps(str(out / 'shards' / 'train'))}", f"seed={seed}")
    return load_recipe(RECIPE, (*overrides, *own)).config


def _learn_seed(
    out: Path, seed: int, clips: int, overrides: Sequence[str], test: CaptionedClips
) -> dict[str, WayResult]:
    found = {UNTRAINED: WayResult({}, figures(build(_configure(out, seed, overrides)), test))}
    for way, changes in WAYS.items():
        config = _configure(out, seed, (*changes, *overrides))
        if way == SHUFFLED:
            config = ShuffledCaptionsConfig.model_validate(config.model_dump())
        settings = {**config.model_dump(mode="json"), "clips": clips, "way": way}
        run = out / f"{way.replace(' ', '_')}_seed_{seed}"
        found[way] = learn_way(config, run, settings, partial(figures, test=test))
    return found


@torch.no_grad()
def figures(objective: Objective, test: CaptionedClips) -> dict[str, float]:
    """Compute all figures of a network."""
    assert isinstance(objective, VideoTextObjective)
    network, normalise = objective.eval().video, objective.spec.normalisation
    seen = [network.encode_video(normalise(each)).unit_BE for each in test.frames_NCTHW.split(_AT_ONCE)]
    video_NE, caption_NE = torch.cat(seen), _encode(objective, test.captions)
    found: dict[str, float] = {}
    for form, number in FORMS.items():
        class_KE = _encode(objective, [caption_of(*combination, number) for combination in COMBINATIONS])
        found |= {f"{name}, {form}": share for name, share in zero_shot_accuracy(video_NE @ class_KE.T, test).items()}
    clips = torch.arange(len(video_NE))
    both_ways = measure({"text": Side(caption_NE, clips), "video": Side(video_NE, clips)}, dual_softmax=None)
    for way, one in both_ways.items():
        found |= {f"{way}, {name}": one[name] for name in (*(f"R@{k}" for k in RECALLS), MEDIAN)}
    return found


def zero_shot_accuracy(cosines_NK: Tensor, test: CaptionedClips) -> dict[str, float]:
    """Return the accuracy of the likeliest combination in each factor and in all three."""
    factors = tuple(FACTORS)
    table_KF = torch.tensor([[_number(factor, combination) for factor in factors] for combination in COMBINATIONS])
    right_NF = table_KF[cosines_NK.argmax(dim=1)] == test.labels_NF
    found: dict[str, float] = {}
    for name, chosen_N in zip(CLIPS, (~test.held_out_N, test.held_out_N), strict=True):
        shares = right_NF[chosen_N].double().mean(dim=0).tolist()
        found |= {f"{name}: {factor}": share for factor, share in zip(factors, shares, strict=True)}
        found[f"{name}: {WHOLE}"] = float(right_NF[chosen_N].all(dim=1).double().mean())
    return found


def _number(factor: str, combination: tuple[str, str, str]) -> int:
    colour, shape, action = combination
    return FACTORS[factor].index({"colour": colour, "shape": shape, "action": action}[factor])


def _encode(objective: VideoTextObjective, texts: Sequence[str]) -> Tensor:
    parts = [texts[start : start + 4 * _AT_ONCE] for start in range(0, len(texts), 4 * _AT_ONCE)]
    return torch.nn.functional.normalize(torch.cat([objective.video.encode_text(part) for part in parts]), dim=1)


def run_and_report(out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]) -> dict[str, Rows]:
    """Run the experiment, write everything to results.json, and return the tables by title."""
    test, results = learn(out, seeds, clips, overrides)
    tables = {
        "zero-shot accuracy among 1152 texts, per cent: mean of the seeds ± half their range": zero_shot_rows(results),
        "which caption belongs to which test clip": retrieval_rows(results, len(test.captions)),
        "goals, in per cent": [check.row() for check in check_goals(results, GOALS)],
    }
    return report(out, seeds, results, tables)


def zero_shot_rows(results: Sequence[Seed]) -> Rows:
    """Return the accuracies on seen and held-out combinations, with known and new forms of text."""
    return [
        row(results, ALL_WAYS, f"{clips}: {factor}, {form}", f"{100 * chance:.1f}")
        for clips in CLIPS
        for form in FORMS
        for factor, chance in CHANCES.items()
    ]


def retrieval_rows(results: Sequence[Seed], clips: int) -> Rows:
    """Return recalls and median ranks among a number of clips, some of which show the same."""
    rows: Rows = []
    for direction in DIRECTIONS:
        rows += [row(results, ALL_WAYS, f"{direction}, R@{k}", f"{100 * min(1.0, k / clips):.1f}") for k in (1, 5, 10)]
        rows.append(rank_row(results, ALL_WAYS, f"{direction}, median rank", clips))
    return rows
