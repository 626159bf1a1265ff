"""Scores every clip of the evaluated shards once, and combines the scores for whole videos and for instants.

A clip covers its time span without the end. An instant's scores are those of the clips that contain it, combined as
those of a video are; if there are none, those of the clip whose middle is nearest.
Legend: N videos, B of a batch, C clips of a video, W of all videos of a rank, K classes, T instants.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from trichord.finetune.config import FinetuneConfig
from trichord.finetune.evaluation.gather import gather_each_once
from trichord.finetune.tasks.classification.charades import official_times
from trichord.finetune.tasks.classification.metrics import Scores, Truths, Values
from trichord.finetune.tasks.classification.model import Classification, pooled, probabilities
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.pretrain.collectives import gather_texts, gather_unequal_rows
from trichord.pretrain.engine.distributed import World
from trichord.shards.reading.batch import Batch
from trichord.shards.record import Interval


@dataclass(frozen=True)
class Scored:
    """Scores and labels of all usable videos in data set order, and the number of unusable ones."""

    scores_NK: Scores
    truths_NK: Truths
    videos: tuple[ScoredVideo, ...]
    silent: int  # number of videos without audio, of which the audio branch gets a substitute
    bad: int


class _Rows:
    """Callable that returns rows of a batch and stores data of unequal length: a video's clip scores and metadata."""

    def __init__(self, objective: Classification) -> None:
        self.objective = objective
        self.given: list[Tensor] = []
        self.entries: list[str] = []

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        spec = self.objective.spec
        given_BCK = self.objective.clip_scores(batch).float().cpu()
        truths_BK = torch.zeros(len(batch.key), spec.count, dtype=torch.uint8)
        for row, (labels, timeline) in enumerate(zip(batch.labels, batch.timeline, strict=True)):
            if not batch.valid[row]:
                continue
            intervals, duration_s = official_times(timeline.annotation, timeline.duration_s, spec.count)
            truths_BK[row, list(labels)] = 1
            self.given.append(given_BCK[row, : len(timeline.clips_s)])
            entry = {
                "position": batch.position[row],
                "key": batch.key[row],
                "duration_s": duration_s,
                "intervals": [(each.label, each.start, each.end) for each in intervals],
                "clips_s": timeline.clips_s,
            }
            self.entries.append(json.dumps(entry, ensure_ascii=False))
        silent_B = (~batch.audio_present).to(torch.uint8)
        return {"truths": truths_BK, "silent": silent_B, "position": torch.tensor(batch.position)}

    def gather(self) -> dict[int, ScoredVideo]:
        """Return the videos of all ranks by their position in the data set."""
        nothing_WK = torch.zeros(0, self.objective.spec.count)
        given_WK = gather_unequal_rows(torch.cat([nothing_WK, *self.given]))
        entries = [json.loads(entry) for entry in gather_texts(self.entries)]
        clips = [len(entry["clips_s"]) for entry in entries]
        found = {}
        for entry, given_CK in zip(entries, given_WK.split(clips), strict=True):
            found[entry["position"]] = ScoredVideo(
                key=entry["key"],
                duration_s=entry["duration_s"],
                intervals=tuple(Interval(label=each[0], start=each[1], end=each[2]) for each in entry["intervals"]),
                clips_s=tuple((start, end) for start, end in entry["clips_s"]),
                given_CK=given_CK,
            )
        return found


def score(config: FinetuneConfig, objective: Classification, world: World) -> Scored:
    """Score every video once; all ranks must call it and get the same result."""
    rows_of = _Rows(objective)
    found = gather_each_once(config.stream(), objective.spec.test_spec(), world, rows_of)
    by_place = rows_of.gather()
    videos = tuple(by_place[place] for place in found.rows["position"].tolist())
    scores_NK = torch.stack([video.scores(objective.spec) for video in videos]).numpy()
    return Scored(scores_NK, found.rows["truths"] > 0, videos, int(found.rows["silent"].sum()), found.bad)


@dataclass(frozen=True, eq=False)
class ScoredVideo:
    """A video's scores and metadata."""

    key: str
    duration_s: float
    intervals: tuple[Interval, ...]
    clips_s: tuple[tuple[float, float], ...]
    given_CK: Tensor  # probabilities, or logits if the recipe averages those

    def scores(self, spec: ClassificationSpec) -> Tensor:
        """Return each class's probability for the video, K."""
        return _to_probabilities(pooled(self.given_CK, spec), spec)

    def clip_scores(self, spec: ClassificationSpec) -> Tensor:
        """Return the probabilities of each clip, CK."""
        return _to_probabilities(self.given_CK, spec)

    def scores_at(self, instants_T: Values, spec: ClassificationSpec) -> Tensor:
        """Return the probabilities at each instant, TK."""
        instants_T1 = torch.from_numpy(instants_T)[:, None]
        starts_C, ends_C = torch.tensor(self.clips_s, dtype=torch.float64).T
        holds_TC = (starts_C <= instants_T1) & (instants_T1 < ends_C)
        nearest_T1 = ((starts_C + ends_C) / 2 - instants_T1).abs().argmin(dim=1, keepdim=True)
        is_nearest_TC = torch.zeros_like(holds_TC).scatter(1, nearest_T1, True)
        counts_TC = torch.where(holds_TC.any(dim=1, keepdim=True), holds_TC, is_nearest_TC)
        return _to_probabilities(torch.stack([pooled(self.given_CK[counts_C], spec) for counts_C in counts_TC]), spec)


def _to_probabilities(given_XK: Tensor, spec: ClassificationSpec) -> Tensor:
    return probabilities(given_XK, spec) if spec.average == "logit" else given_XK


def predict(config: FinetuneConfig, objective: Classification, batch: Batch) -> list[dict[str, float]]:
    """Return the probabilities of the classes by name for each video of a batch, the highest first."""
    spec, found = objective.spec, []
    scores_BCK = objective.clip_scores(batch).float().cpu()
    for key, timeline, scores_CK in zip(batch.key, batch.timeline, scores_BCK, strict=True):
        clips = len(timeline.clips_s)
        scores_K = ScoredVideo(key, timeline.duration_s, (), timeline.clips_s, scores_CK[:clips]).scores(spec)
        ranked = scores_K.argsort(descending=True, stable=True).tolist()
        found.append({spec.names[number]: float(scores_K[number]) for number in ranked})
    return found
