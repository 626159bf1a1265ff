"""Query files, a video or an audio file, as inputs of a model.

Legend: T frames of a spectrogram, M mel filters, N samples of sound.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from trichord.core.errors import SampleError, UserError
from trichord.finetune.zeroshot.opening import Hearing
from trichord.shards.audio.spectrogram import frame_count, spectrogram
from trichord.shards.decoding.demux import index_media
from trichord.shards.decoding.sound import decode_sound
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.single import batch_of, read_video
from trichord.shards.record import AUDIO_EXTENSIONS, VIDEO_EXTENSIONS
from trichord.shards.sample_spec import SampleSpec


def look_at(path: Path, spec: SampleSpec) -> Batch:
    """Read one video file as a batch."""
    try:
        return batch_of(read_video(path), spec)
    except SampleError as error:
        raise UserError(f"{path} cannot be used: {error}") from error


def listen_to(path: Path, hearing: Hearing) -> Tensor:
    """Return the spectrogram of an audio file: of its middle, or of all of it."""
    extension = path.suffix.lower().removeprefix(".")
    if not path.is_file() or extension not in AUDIO_EXTENSIONS:
        raise UserError(f"{path}: expected an audio file ({', '.join((*AUDIO_EXTENSIONS, *VIDEO_EXTENSIONS))})")
    limits, data = DecodeLimits(), path.read_bytes()
    deadline = limits.start()
    try:
        track = index_media(data, limits, deadline).audio
        if track is None or not len(track):
            raise UserError(f"{path} has no sound")
        end_s = float(track.times_s[-1])
        start_s = float(track.times_s[0])
        if hearing.seconds is not None:
            middle_s = (start_s + end_s) / 2
            start_s, end_s = middle_s - hearing.seconds / 2, middle_s + hearing.seconds / 2
        rate = hearing.sound.rate_hz
        samples_N = decode_sound(memoryview(data), track, start_s, end_s, rate, deadline)
    except SampleError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    if not samples_N.any():
        return torch.zeros(hearing.sound.frames or frame_count(hearing.sound, len(samples_N)), hearing.sound.mels)
    return spectrogram(hearing.sound, samples_N, None)
