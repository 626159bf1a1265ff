"""Convert a raw sample to an example of a batch: views of the frames, log-mel spectrograms of the audio, and text.

Legend: T frames of the spectrogram, F mel filters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.audio.spectrogram import frame_count, spectrogram
from trichord.shards.decoding.torchcodec_video import open_with_torchcodec
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import Video, open_video
from trichord.shards.reading.batch import Example, Timeline
from trichord.shards.record import Annotation, RawSample, labels_within
from trichord.shards.sample_spec import SampleSpec
from trichord.shards.transforms.clips import Clip
from trichord.shards.transforms.views import make_views, plan_views


class ClipTransform:
    """A transform that decodes and augments one sample; all random draws come from the given generator.

    Views, caption and audio are drawn in this order, so that a recipe with audio gets the same views as without it.
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
        labels = annotation.labels if self.spec.labels == "video" else _labels_of(plan.clips, annotation)
        views = make_views(self.spec.views, plan, needed_THWC, rng, labels, annotation.captions)
        text = self._text(annotation.captions, rng)
        sounds = self._sounds(video, plan.clips, rng)
        example = Example(
            video=views.tensors(),
            audio=[spectrogram_TF for spectrogram_TF, _ in sounds],
            audio_present=bool(sounds) and all(is_present for _, is_present in sounds),
            text=text,
            labels=views.labels,
        )
        if self.spec.timeline:
            clips_s = tuple((clip.start_s, clip.end_s) for clip in plan.clips)
            example["timeline"] = Timeline(clips_s, video.duration_s, annotation)
        return example

    def _text(self, captions: Sequence[str], rng: np.random.Generator) -> str:
        """Return the selected caption, or all of them one per line; an empty string if there is none."""
        match self.spec.caption:
            case "all":
                return "\n".join(" ".join(caption.split()) for caption in captions)
            case "random":
                chosen = int(rng.integers(len(captions) or 1))
            case "first":
                chosen = 0
        return captions[chosen] if captions else ""

    def _sounds(self, video: Video, clips: Sequence[Clip], rng: np.random.Generator) -> list[tuple[Tensor, bool]]:
        """Return the spectrograms of the selected clips, and whether each has audio."""
        if self.spec.sound is None:
            return []
        wanted = clips[:1] if self.spec.sound_of == "first_clip" else clips
        return [self._sound(self.spec.sound, video, clip, rng) for clip in wanted]

    def _sound(self, sound: SoundSpec, video: Video, clip: Clip, rng: np.random.Generator) -> tuple[Tensor, bool]:
        """Return the spectrogram of a clip and whether it has audio; digital silence counts as none."""
        start_s, end_s = clip.start_s, clip.end_s
        if self.spec.sound_seconds is not None:
            start_s = (start_s + end_s - self.spec.sound_seconds) / 2
            end_s = start_s + self.spec.sound_seconds
        samples_N = video.sound(start_s, end_s, sound.rate_hz)
        if samples_N is None or not samples_N.any():
            frames = sound.frames or frame_count(sound, round((end_s - start_s) * sound.rate_hz))
            return torch.zeros(frames, sound.mels), False
        return spectrogram(sound, samples_N, rng if self.spec.is_training else None), True


def _labels_of(clips: Sequence[Clip], annotation: Annotation) -> tuple[int, ...]:
    """Return the classes of the intervals that overlap any of the clips."""
    found = {label for clip in clips for label in labels_within(annotation.intervals, clip.start_s, clip.end_s)}
    return tuple(sorted(found))
