"""Predictions of a head for one video: its likeliest classes, and their scores in each window.

Legend: C clips of a video, K classes, k the likeliest of them, W windows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from trichord.finetune.opening import OpenedRun
from trichord.finetune.tasks.classification.model import Classification
from trichord.finetune.tasks.classification.scoring import Video
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.single import batch_of
from trichord.shards.record import RawSample
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

    def told(self) -> dict[str, Any]:
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


def predict_actions(opened: OpenedRun, raw: RawSample, facts: Facts, limits: DecodeLimits) -> Prediction:
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


def _scored(objective: Classification, batch: Batch) -> Video:
    scores_CK = objective.clip_scores(batch)[0].float().cpu()
    (timeline,) = batch["timeline"]
    return Video(batch["key"][0], timeline.duration_s, (), timeline.clips_s, scores_CK)


def _timeline(
    objective: Classification, raw: RawSample, facts: Facts, limits: DecodeLimits, video: Video, likeliest_k: Tensor
) -> dict[str, Any]:
    """Return the scores of the likeliest classes in windows over the video: those of the test, if it has windows."""
    spec = objective.spec
    if not isinstance(spec.test_clips, SlidingWindows):
        windows = spec.model_copy(update={"test_clips": windows_of(spec, facts)})
        video = _scored(objective, batch_of(raw, windows.test_spec(), limits, objective.pos_weight_K.device))
    scores_Wk = torch.as_tensor(video.clip_scores(spec)[:, likeliest_k])
    return {"windows": [list(each) for each in video.clips_s], "scores": scores_Wk.T.tolist()}


def windows_of(spec: ClassificationSpec, facts: Facts) -> SlidingWindows:
    """Return windows as long as a recipe's clips, each starting in the middle of the one before.

    If a clip is the whole video, windows are an eighth of it. The stride limits the number of windows.
    """
    clips = spec.test_clips
    seconds = getattr(clips, "clip_seconds", None)
    if seconds is None and getattr(clips, "stride_frames", None):
        seconds = clips.frames * clips.stride_frames / facts.frames_per_second  # type: ignore[operator, union-attr]
    if seconds is None:
        seconds = max(_SHORTEST_S, facts.seconds / _WINDOWS)
    stride = max(seconds / 2, facts.seconds / _MOST_WINDOWS)
    return SlidingWindows(frames=getattr(clips, "frames", None) or _FRAMES, clip_seconds=seconds, stride_seconds=stride)
