"""Predictions of a head for one video: its likeliest classes and their scores in each window, or its caption.

Legend: C clips of a video, K classes, k the likeliest of them, W windows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from trichord.finetune.loading import TrainedRun
from trichord.finetune.tasks.captioning.model import Captioner
from trichord.finetune.tasks.classification.model import Classification
from trichord.finetune.tasks.classification.scoring import ScoredVideo
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.reading.batch import Batch
from trichord.shards.record import RawSample
from trichord.shards.sample import batch_of
from trichord.shards.transforms.clip_specs import SlidingWindows

TOP = 5
_MOST_WINDOWS = 60
_WINDOWS = 8  # for a video whose clips cover all of it
_SHORTEST_S = 0.5
_FRAMES = 8


class Facts(NamedTuple):
    """Properties of a video that are known without a model."""

    seconds: float
    frames: int
    frames_per_second: float
    width: int
    height: int
    has_sound: bool

    def as_json(self) -> dict[str, Any]:
        """Return the properties in the format of the page's answer."""
        return {name: round(each, 3) if isinstance(each, float) else each for name, each in self._asdict().items()}


class PredictedClip(NamedTuple):
    """A clip among the views of a batch, and its time span."""

    batch: Batch
    view: int
    clip_s: tuple[float, float]


class Prediction(NamedTuple):
    """A task's answer in the format of the page, and the clip with the highest score for it, if any."""

    answer: dict[str, Any]
    clip: PredictedClip | None = None


def predict_actions(opened: TrainedRun, raw: RawSample, facts: Facts, limits: DecodeLimits) -> Prediction:
    """Return the likeliest classes of a video, computed as in an evaluation of the run, and their scores over time."""
    objective = cast(Classification, opened.objective)
    spec = objective.spec
    batch = batch_of(raw, spec.test_spec(), limits, objective.pos_weight_K.device)
    video = _scored(objective, batch)
    scores_K = video.scores(spec)
    likeliest_k = scores_K.argsort(descending=True, stable=True)[:TOP]
    answer = {
        "run": opened.run.name,
        "scale": "sigmoid" if spec.is_multi_label else "softmax",
        "views": spec.views_words,
        "top": [{"label": spec.names[place], "score": float(scores_K[place])} for place in likeliest_k.tolist()],
        "timeline": _timeline(objective, raw, facts, limits, video, likeliest_k),
    }
    clip = int(video.clip_scores(spec)[:, likeliest_k[0]].argmax())
    middle = spec.test_crops // 2
    return Prediction(answer, PredictedClip(batch, clip * spec.test_crops + middle, video.clips_s[clip]))


def _scored(objective: Classification, batch: Batch) -> ScoredVideo:
    scores_CK = objective.clip_scores(batch)[0].float().cpu()
    (timeline,) = batch.timeline
    return ScoredVideo(batch.key[0], timeline.duration_s, (), timeline.clips_s, scores_CK)


def _timeline(
    objective: Classification,
    raw: RawSample,
    facts: Facts,
    limits: DecodeLimits,
    video: ScoredVideo,
    likeliest_k: Tensor,
) -> dict[str, Any]:
    """Return the scores of the likeliest classes in windows over the video: those of the test, if it has windows."""
    spec = objective.spec
    if spec.test_clips.window_words is None:
        windows = spec.model_copy(update={"test_clips": windows_of(spec, facts)})
        video = _scored(objective, batch_of(raw, windows.test_spec(), limits, objective.pos_weight_K.device))
    scores_Wk = torch.as_tensor(video.clip_scores(spec)[:, likeliest_k])
    return {"windows": [list(each) for each in video.clips_s], "scores": scores_Wk.T.tolist()}


def windows_of(spec: ClassificationSpec, facts: Facts) -> SlidingWindows:
    """Return windows as long as a recipe's clips, each starting in the middle of the one before.

    If a clip is the whole video, windows are an eighth of it. The stride limits the number of windows.
    """
    clips = spec.test_clips
    seconds = clips.clip_length_s(facts.frames_per_second) or max(_SHORTEST_S, facts.seconds / _WINDOWS)
    stride = max(seconds / 2, facts.seconds / _MOST_WINDOWS)
    return SlidingWindows(frames=getattr(clips, "frames", None) or _FRAMES, clip_seconds=seconds, stride_seconds=stride)


def predict_caption(opened: TrainedRun, raw: RawSample, facts: Facts, limits: DecodeLimits) -> Prediction:
    """Return a caption of a video with its log-probability."""
    objective = cast(Captioner, opened.objective)
    device = next(objective.parameters()).device
    decoded = objective.generate(batch_of(raw, objective.spec.test_spec(), limits, device), opened.config.seed)
    return Prediction({"run": opened.run.name, "caption": decoded.captions[0], "log_prob": decoded.log_probs[0]})
