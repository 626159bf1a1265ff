"""Convert a raw sample to an example of a batch: views of the frames, log-mel spectrograms of the audio, and text.

For inference and inspection, single samples are read and converted without a stream: a video file, a batch of one, a
few samples of a shard set.

Legend: T frames of the spectrogram, F mel filters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trichord.core.command import command_line
from trichord.core.errors import UserError
from trichord.core.seeds import generator
from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.audio.spectrogram import spectrogram
from trichord.shards.decoding.torchcodec_video import open_with_torchcodec
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import Video, open_video
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.batch import Batch, Example, Named, Timeline, collate, stack_anew
from trichord.shards.reading.manifest import Manifest
from trichord.shards.reading.root import parse_root
from trichord.shards.record import VIDEO_EXTENSIONS, Annotation, RawSample, labels_within
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
        if self.spec.label_rule is not None:
            self.spec.label_rule.check(annotation)
        open_clip = open_video if self.spec.decoder == "planned" else open_with_torchcodec
        video = open_clip(raw.video(), self.limits)
        plan = plan_views(self.spec.views, video.times_s, video.duration_s, rng)
        needed_THWC = video.frames(plan.needed)
        labels = annotation.labels if self.spec.labels == "video" else _labels_of(plan.clips, annotation)
        views = make_views(self.spec.views, plan, needed_THWC, rng, labels, annotation.captions)
        text = self._text(annotation.captions, rng)
        sounds = self._sounds(video, plan.clips, rng)
        clips_s = tuple((clip.start_s, clip.end_s) for clip in plan.clips)
        return Example(
            video=views.tensors(),
            audio=[spectrogram_TF for spectrogram_TF, _ in sounds],
            audio_present=bool(sounds) and all(is_present for _, is_present in sounds),
            text=text,
            labels=views.labels,
            timeline=Timeline(clips_s, video.duration_s, annotation) if self.spec.timeline else Timeline(),
        )

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
            frames = sound.frames or sound.frame_count(round((end_s - start_s) * sound.rate_hz))
            return torch.zeros(frames, sound.mels), False
        return spectrogram(sound, samples_N, rng if self.spec.is_training else None), True


def _labels_of(clips: Sequence[Clip], annotation: Annotation) -> tuple[int, ...]:
    """Return the classes of the intervals that overlap any of the clips."""
    found = {label for clip in clips for label in labels_within(annotation.intervals, clip.start_s, clip.end_s)}
    return tuple(sorted(found))


def read_video(path: Path) -> RawSample:
    """Read a video file as a sample; raise UserError if it is missing or not a video."""
    extension = path.suffix.lower().removeprefix(".")
    if not path.is_file() or extension not in VIDEO_EXTENSIONS:
        found = "no file of this name" if not path.exists() else "a folder" if path.is_dir() else "another file type"
        raise UserError(f"{path}: expected a video file ({', '.join(VIDEO_EXTENSIONS)}), found {found}")
    return RawSample(path.stem, path.name, {extension: path.read_bytes()})


def batch_of(
    raw: RawSample, spec: SampleSpec, limits: DecodeLimits | None = None, device: torch.device | None = None
) -> Batch:
    """Build a batch of one sample; random views use a fixed seed and are the same each time."""
    example = ClipTransform(spec, limits)(raw, generator(0, "one sample", raw.key))
    batch = collate([Named(example, raw.key, raw.shard, 0)], 0, [], [], 0, stack_anew)
    return batch if device is None else batch.to(device)


def pick_samples(root: str, count: int) -> Iterator[RawSample]:
    """Yield `count` samples evenly spread over the set, starting with its first, or all if it has fewer.

    Raise SampleError for a sample that cannot be read.
    """
    where, listed = parse_root(root), Manifest.load(root)
    if listed.samples == 0:
        raise UserError(f"{where.text} has no samples. Next: {command_line('shards', 'verify', where.text)}")
    ends = np.cumsum([entry.samples for entry in listed.shards])
    count = min(count, listed.samples)
    for number in (listed.samples * place // count for place in range(count)):
        shard = int(np.searchsorted(ends, number, side="right"))
        entry = listed.shards[shard]
        archive = open_archive(where, entry.name, size=entry.bytes, sha256=entry.sha256)
        try:
            yield archive.read(number - (int(ends[shard]) - entry.samples))
        finally:
            archive.close()
