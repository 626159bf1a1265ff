"""Media of a search: a video or audio file as a query, and the sample behind a row of an index.

Legend: T frames of a spectrogram, M mel filters, N samples of sound.
"""

from __future__ import annotations

from pathlib import Path

import av
import torch
from torch import Tensor

from trichord.core.errors import Cause, SampleError, UserError
from trichord.shards.audio.sound_specs import SoundSpec
from trichord.shards.audio.spectrogram import spectrogram
from trichord.shards.decoding.decoders import audio_decoder
from trichord.shards.decoding.demux import index_media
from trichord.shards.decoding.sound import decode_sound
from trichord.shards.decoding.track import DecodeLimits, Track, make_packet
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.root import check_shard_name, parse_root
from trichord.shards.record import AUDIO_EXTENSIONS, VIDEO_EXTENSIONS, RawSample
from trichord.shards.sample import batch_of, read_video
from trichord.shards.sample_spec import SampleSpec

_WITHOUT_DELAY = ("pcm", "flac")


def read_video_query(path: Path, spec: SampleSpec) -> Batch:
    """Read one video file as a batch."""
    try:
        return batch_of(read_video(path), spec)
    except SampleError as error:
        raise UserError(f"{path} cannot be used: {error}") from error


def read_sound(path: Path, sound: SoundSpec, seconds: float | None) -> Tensor:
    """Return the spectrogram of an audio or video file: of its middle `seconds`, or of all of it."""
    known = (*AUDIO_EXTENSIONS, *VIDEO_EXTENSIONS)
    if not path.is_file() or path.suffix.lower().removeprefix(".") not in known:
        raise UserError(f"{path}: expected an audio or video file ({', '.join(known)})")
    limits, data = DecodeLimits(), path.read_bytes()
    deadline = limits.start()
    try:
        track = index_media(data, limits, deadline).audio
        if track is None or not len(track):
            raise UserError(f"{path} has no sound")
        start_s, end_s = float(track.times_s[0]), _end_s(track, data)
        if seconds is not None:
            middle_s = (start_s + end_s) / 2
            start_s, end_s = middle_s - seconds / 2, middle_s + seconds / 2
        samples_N = decode_sound(memoryview(data), track, start_s, end_s, sound.rate_hz, deadline)
    except SampleError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    if not samples_N.any():
        return torch.zeros(sound.frames or sound.frame_count(len(samples_N)), sound.mels)
    return spectrogram(sound, samples_N, None)


def _end_s(track: Track, data: bytes) -> float:
    """Return the end of a sound; codecs with a delay end with a packet of padding, which is left out."""
    last = len(track) - 1
    samples = 0
    if track.codec.startswith(_WITHOUT_DELAY):
        try:
            frames = audio_decoder(track).decode(make_packet(track.payload(memoryview(data), last), last))
        except av.FFmpegError as error:
            raise SampleError(Cause.AUDIO, f"{track.codec}: {error}") from error
        samples = sum(frame.samples for frame in frames)
    return float(track.times_s[last]) + samples / max(track.sample_rate, 1)


def read_sample(root: str, shard: str, key: str) -> RawSample:
    """Read the sample behind a row; raise SampleError if its shard is missing or no longer holds it."""
    try:
        where = parse_root(root, "a row of the index")
        check_shard_name(shard)
    except (UserError, ValueError) as error:
        raise SampleError(Cause.SHARD_UNREADABLE, str(error)) from error
    archive = open_archive(where, shard)
    try:
        if key not in archive.keys:
            raise SampleError(Cause.MISSING, f"{shard} no longer holds {key}")
        return archive.read(archive.keys.index(key))
    finally:
        archive.close()
