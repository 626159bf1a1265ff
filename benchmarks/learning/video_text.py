"""Do videos and captions learn each other? Contrast of captions on the generated world, then questions nobody trained.

Each seed is trained as the recipe says, with frames averaged and blind to each other, and with captions of other clips,
which must teach nothing. Asked of test clips is which colour, shape and action they show, zero-shot among the texts of
all combinations: half of the clips show combinations that were never trained on, and the texts come in a form that
captions had and in one that none had. And which caption is whose.
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

from benchmarks.learning.ways import UNTRAINED, WayResult, learn_way
from benchmarks.learning.world_clips import FACTORS, RULES, FactorTransform, make_shards
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.base import Objective, StepOutput
from trichord.pretrain.objectives.video_text import VideoTextSpec
from trichord.pretrain.objectives.video_text.objective import VideoTextObjective
from trichord.pretrain.recipe import load_recipe
from trichord.pretrain.retrieval.ranks import MEDIAN, RECALLS, measure
from trichord.pretrain.retrieval.tiles import Side
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.evaluation import evaluation_batches
from trichord.shards.reading.stream_config import SourceConfig, StreamConfig
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.synthetic import CLASSES, COMBINATIONS, say
from trichord.shards.transforms.clip_specs import FullVideo
from trichord.shards.transforms.mix import Mixing
from trichord.shards.transforms.view_specs import Squash, ViewSpec, ViewsSpec

RECIPE = "video_text_world"
UNSAID = 2
TOLD_RULES = RULES.model_copy(update={"captions": 5, "unsaid_forms": UNSAID})
FORMS = {"known form": 0, "new form": -UNSAID}  # what texts of classes are like
CLIPS = ("seen", "held out")  # combinations of shape, colour and action
CONTRAST, MEAN, SHUFFLED = "contrast", "frames averaged", "captions shuffled"
WAYS: dict[str, tuple[str, ...]] = {
    CONTRAST: (),
    MEAN: ("backbone.messages=false", "backbone.integration_depth=0"),
    SHUFFLED: (),
}
WHOLE = "all three"
_AT_ONCE = 64


class Mistold(VideoTextObjective):
    """The control: every clip is told by the caption of another one of its batch, which is another one each time."""

    def training_step(self, batch: Batch, step: int) -> StepOutput:
        text = batch["text"]
        return super().training_step(Batch(**{**batch, "text": [*text[1:], text[0]]}), step)


class MistoldConfig(RunConfig):
    """A run of the control."""

    def build_objective(self) -> Objective:
        assert isinstance(self.objective, VideoTextSpec) and self.text_backbone is not None
        towers = self.backbone.build(), self.text_backbone.build()
        return Mistold(self.objective, *towers, None, Mixing(self.seed, self.data.batch_size // self.data.lanes))


@dataclass(frozen=True)
class ToldClips:
    """Decoded test clips, the class of each by factor, whether its combination is held out, and a caption."""

    frames_NCTHW: Tensor
    labels_NF: Tensor
    held_out_N: Tensor
    captions: tuple[str, ...]


def learn(
    out: Path, seeds: Sequence[int], clips: int, overrides: Sequence[str]
) -> tuple[ToldClips, list[dict[str, WayResult]]]:
    """Run all seeds all ways, or those that an earlier call with the same settings has not finished."""
    shards = make_shards(out, clips, TOLD_RULES)
    test = read_clips(shards / "test", _configure(out, seeds[0], overrides))
    return test, [_learn_seed(out, seed, clips, overrides, test) for seed in seeds]


def read_clips(root: Path, config: RunConfig) -> ToldClips:
    """Decode all clips of a split, whole in time and in space."""
    backbone = config.backbone
    assert backbone.kind == "xclip"
    views = ViewsSpec(clips=FullVideo(frames=backbone.frames), views=(ViewSpec(crop=Squash(size=backbone.size)),))
    stream = StreamConfig(sources=(SourceConfig(root=str(root)),), batch_size=_AT_ONCE)
    transform = FactorTransform(SampleSpec(views=views, caption="first", is_training=False))
    frames, labels, captions = [], [], list[str]()
    with contextlib.closing(evaluation_batches(stream, transform)) as batches:
        for batch in batches:
            used = [row for row, is_valid in enumerate(batch["valid"].tolist()) if is_valid]
            frames.append(batch["video"][0][used])
            labels += [batch["labels"][row] for row in used]
            captions += [batch["text"][row] for row in used]
    labels_NX = torch.tensor(labels)
    return ToldClips(torch.cat(frames), labels_NX[:, :-1], labels_NX[:, -1].bool(), tuple(captions))


def _configure(out: Path, seed: int, overrides: Sequence[str]) -> RunConfig:
    own = (f"data.sources={json.dumps(str(out / 'shards' / 'train'))}", f"seed={seed}")
    return load_recipe(RECIPE, (*overrides, *own)).config


def _learn_seed(out: Path, seed: int, clips: int, overrides: Sequence[str], test: ToldClips) -> dict[str, WayResult]:
    found = {UNTRAINED: WayResult({}, figures(build(_configure(out, seed, overrides)), test))}
    for way, changes in WAYS.items():
        config = _configure(out, seed, (*changes, *overrides))
        if way == SHUFFLED:
            config = MistoldConfig.model_validate(config.model_dump())
        settings = {**config.model_dump(mode="json"), "clips": clips, "way": way}
        run = out / f"{way.replace(' ', '_')}_seed_{seed}"
        found[way] = learn_way(config, run, settings, partial(figures, test=test))
    return found


@torch.no_grad()
def figures(objective: Objective, test: ToldClips) -> dict[str, float]:
    """Measure everything of a network."""
    assert isinstance(objective, VideoTextObjective)
    network, normalise = objective.eval().video, objective.spec.normalisation
    seen = [network.see(normalise(each)).unit_BE for each in test.frames_NCTHW.split(_AT_ONCE)]
    video_NE, told_NE = torch.cat(seen), _read(objective, test.captions)
    found: dict[str, float] = {}
    for form, number in FORMS.items():
        class_KE = _read(objective, [say(*combination, number) for combination in COMBINATIONS])
        found |= {f"{name}, {form}": share for name, share in told_right(video_NE @ class_KE.T, test).items()}
    clips = torch.arange(len(video_NE))
    both_ways = measure({"text": Side(told_NE, clips), "video": Side(video_NE, clips)}, dual_softmax=None)
    for way, one in both_ways.items():
        found |= {f"{way}, {name}": one[name] for name in (*(f"R@{k}" for k in RECALLS), MEDIAN)}
    return found


def told_right(cosines_NK: Tensor, test: ToldClips) -> dict[str, float]:
    """Give how often the likeliest combination is right in each factor, and in all three."""
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


def _read(objective: VideoTextObjective, texts: Sequence[str]) -> Tensor:
    parts = [texts[start : start + 4 * _AT_ONCE] for start in range(0, len(texts), 4 * _AT_ONCE)]
    return torch.nn.functional.normalize(torch.cat([objective.video.read(part) for part in parts]), dim=1)


CHANCES = {"shape": 1 / 8, "colour": 1 / 8, "action": 1 / len(CLASSES), WHOLE: 1 / len(COMBINATIONS)}
