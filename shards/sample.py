"""From a raw sample to an example of a batch: the clip's frames as views, its sound as a log-mel picture, its words.

Legend: T frames of the sound's picture, F mel filters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shards.decoding.torchcodec_video import open_with_torchcodec
from shards.decoding.track import DecodeLimits
from shards.decoding.video import Video, open_video
from shards.hearing.spectrogram import frame_count, spectrogram
from shards.reading.batch import Example
from shards.record import RawSample
from shards.sample_spec import SampleSpec
from shards.viewing.clips import Clip
from shards.viewing.views import make_views, plan_views


class ClipTransform:
    """Decodes and augments one sample; everything that chance decides comes from the generator it is given.

    Draws for views, caption and sound follow each other in this order, so that a recipe that adds sound keeps the very
    views it had without.
    """

    def __init__(self, spec: SampleSpec, limits: DecodeLimits | None = None) -> None:
        self.spec = spec
        self.limits = limits or DecodeLimits()

    def __call__(self, raw: RawSample, rng: np.random.Generator) -> Example:
        annotation = raw.annotation()
        open_clip = open_video if self.spec.decoder == "planned" else open_with_torchcodec
        video = open_clip(raw.video(), self.limits)
        plan = plan_views(self.spec.views, video.times_s, video.duration_s, rng)
        needed_THWC = video.frames(plan.needed)
        views = make_views(self.spec.views, plan, needed_THWC, rng, annotation.labels, annotation.captions)
        captions = annotation.captions or ("",)
        spoken = int(rng.integers(len(captions))) if self.spec.caption == "random" else 0
        audio_TF, is_heard = self._sound(video, plan.clips[0], rng)
        return Example(
            video=views.tensors(),
            audio=audio_TF,
            audio_present=is_heard,
            text=captions[spoken],
            labels=views.labels,
        )

    def _sound(self, video: Video, clip: Clip, rng: np.random.Generator) -> tuple[Tensor | None, bool]:
        """Give the picture of the clip's sound and whether there is any; digital silence counts as none."""
        sound = self.spec.sound
        if sound is None:
            return None, False
        start_s, end_s = clip.start_s, clip.end_s
        if self.spec.sound_seconds is not None:
            start_s = (start_s + end_s - self.spec.sound_seconds) / 2
            end_s = start_s + self.spec.sound_seconds
        samples_N = video.sound(start_s, end_s, sound.rate_hz)
        if samples_N is None or not samples_N.any():
            frames = sound.frames or frame_count(sound, round((end_s - start_s) * sound.rate_hz))
            return torch.zeros(frames, sound.mels), False
        return spectrogram(sound, samples_N, rng if self.spec.is_training else None), True
