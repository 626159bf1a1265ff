"""Scores every clip of a test's shards once: what a head says of each video, of its clips, and what is true.

Legend: N videos, B of a batch, C clips of a video, W of all videos of a rank, K classes.

Scores of a video's clips put together: for the whole video, and for instants of it.

A clip speaks for its stretch of time, its end excluded. An instant's scores are those of the clips that hold it, put
together as those of a video are; where none does, those of the clip whose middle is nearest.
Legend: C clips of a video, K classes, T instants.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from trichord.finetune.config import FinetuneConfig
from trichord.finetune.gathering import gather_each_once
from trichord.finetune.tasks.classification.charades import official_times
from trichord.finetune.tasks.classification.metrics import Scores, Truths, Values
from trichord.finetune.tasks.classification.model import Classification, check_labels, pooled, probabilities
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.pretrain.collectives import gather_texts, gather_unequal_rows
from trichord.pretrain.engine.distributed import World
from trichord.shards.reading.batch import Batch
from trichord.shards.record import Interval


@dataclass(frozen=True)
class Scored:
    """The scores of all usable videos in the order of the set, what they should be, and who could not be used."""

    scores_NK: Scores
    truths_NK: Truths
    videos: tuple[Video, ...]
    silent: int  # videos without sound, where a head listens
    bad: int


class _Rows:
    """Makes rows of batches, and keeps what is of unequal length: the scores of each video's clips, and its story."""

    def __init__(self, objective: Classification) -> None:
        self.objective = objective
        self.given: list[Tensor] = []
        self.stories: list[str] = []

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        spec = self.objective.spec
        given_BCK = self.objective.clip_scores(batch).float().cpu()
        truths_BK = torch.zeros(len(batch["key"]), spec.count, dtype=torch.uint8)
        for row, (labels, timeline) in enumerate(zip(batch["labels"], batch["timeline"], strict=True)):
            if not batch["valid"][row]:
                continue
            intervals, duration_s = official_times(timeline.annotation, timeline.duration_s)
            said = (*labels, *(each.label for each in intervals))
            whose = f"sample {batch['key'][row]} of {batch['shard'][row]}"
            check_labels(spec, said if spec.is_multi_label else labels, whose)
            truths_BK[row, list(labels)] = 1
            self.given.append(given_BCK[row, : len(timeline.clips_s)])
            story = {
                "position": batch["position"][row],
                "key": batch["key"][row],
                "duration_s": duration_s,
                "intervals": [(each.label, each.start, each.end) for each in intervals],
                "clips_s": timeline.clips_s,
            }
            self.stories.append(json.dumps(story, ensure_ascii=False))
        silent_B = (~batch["audio_present"]).to(torch.uint8)
        return {"truths": truths_BK, "silent": silent_B, "position": torch.tensor(batch["position"])}

    def gather(self) -> dict[int, Video]:
        """Give all ranks' videos by their places in the set."""
        nothing_WK = torch.zeros(0, self.objective.spec.count)
        given_WK = gather_unequal_rows(torch.cat([nothing_WK, *self.given]))
        stories = [json.loads(story) for story in gather_texts(self.stories)]
        clips = [len(story["clips_s"]) for story in stories]
        found = {}
        for story, given_CK in zip(stories, given_WK.split(clips), strict=True):
            found[story["position"]] = Video(
                key=story["key"],
                duration_s=story["duration_s"],
                intervals=tuple(Interval(label=each[0], start=each[1], end=each[2]) for each in story["intervals"]),
                clips_s=tuple((start, end) for start, end in story["clips_s"]),
                given_CK=given_CK,
            )
        return found


def score(config: FinetuneConfig, objective: Classification, world: World) -> Scored:
    """Score every video once; all ranks take part and get the same."""
    rows_of = _Rows(objective)
    found = gather_each_once(config.stream(), objective.spec.test_spec(), world, rows_of)
    by_place = rows_of.gather()
    videos = tuple(by_place[place] for place in found.rows["position"].tolist())
    scores_NK = torch.stack([video.scores(objective.spec) for video in videos]).numpy()
    return Scored(scores_NK, found.rows["truths"] > 0, videos, int(found.rows["silent"].sum()), found.bad)


@dataclass(frozen=True, eq=False)
class Video:
    """What a test found in a video, and what is known of it."""

    key: str
    duration_s: float
    intervals: tuple[Interval, ...]
    clips_s: tuple[tuple[float, float], ...]
    given_CK: Tensor  # probabilities, or logits where a recipe averages those

    def scores(self, spec: ClassificationSpec) -> Tensor:
        """Give each class's probability, K."""
        return _ended(pooled(self.given_CK, spec), spec)

    def clip_scores(self, spec: ClassificationSpec) -> Tensor:
        """Give them of each clip, CK."""
        return _ended(self.given_CK, spec)

    def scores_at(self, instants_T: Values, spec: ClassificationSpec) -> Tensor:
        """Give them of each instant, TK."""
        instants_T1 = torch.from_numpy(instants_T)[:, None]
        starts_C, ends_C = torch.tensor(self.clips_s, dtype=torch.float64).T
        holds_TC = (starts_C <= instants_T1) & (instants_T1 < ends_C)
        nearest_T1 = ((starts_C + ends_C) / 2 - instants_T1).abs().argmin(dim=1, keepdim=True)
        is_nearest_TC = torch.zeros_like(holds_TC).scatter(1, nearest_T1, True)
        speaks_TC = torch.where(holds_TC.any(dim=1, keepdim=True), holds_TC, is_nearest_TC)
        return _ended(torch.stack([pooled(self.given_CK[speaks_C], spec) for speaks_C in speaks_TC]), spec)


def _ended(given_XK: Tensor, spec: ClassificationSpec) -> Tensor:
    return probabilities(given_XK, spec) if spec.average == "logit" else given_XK
