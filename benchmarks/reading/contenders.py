"""The readers that are compared: ours and those of other tools, each set up as its own documentation recommends.

All return arrays of the same shapes, so that results can be compared. Each runs in a process of its own, because
several FFmpeg libraries in one process can disturb each other.
Legend: T frames, H height, W width, C colours, N samples, M mel bins.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from trichord.core.wheels import make_importable

Array = npt.NDArray[Any]
SIDE, RATE, MELS = 224, 16000, 128


class OurReader:
    """The reader of this project."""

    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        from trichord.shards.decoding.decoders import keep_freed_memory
        from trichord.shards.transforms.crops import CentreCrop
        from trichord.shards.transforms.view_specs import ViewSpec

        keep_freed_memory()  # as the stream's workers do
        self._view = ViewSpec(crop=CentreCrop(size=SIDE, short_side=SIDE))

    def frames(self, data: bytes, indices: Sequence[int]) -> Array:
        """Return frames_CTHW of these frames: short side resized to 224, centre crop."""
        from trichord.shards.decoding.video import open_video
        from trichord.shards.transforms.views import view_from

        return view_from(self._view, open_video(data).frames(indices), np.random.default_rng(0)).numpy()

    def fbank(self, samples_N: Array) -> Array:
        """Return the log-mel filterbank, audio_TM."""
        from trichord.shards.audio.spectrogram import log_fbank

        return log_fbank(torch.from_numpy(samples_N)[None], RATE, MELS)[0].numpy()

    def clip(self, data: bytes, start_s: float, end_s: float, indices: Sequence[int]) -> tuple[Array, Array]:
        """Return the frames and the filterbank of one window."""
        from trichord.shards.decoding.video import open_video
        from trichord.shards.transforms.views import view_from

        video = open_video(data)
        frames_CTHW = view_from(self._view, video.frames(indices), np.random.default_rng(0)).numpy()
        samples_N = video.sound(start_s, end_s, RATE)
        assert samples_N is not None
        return frames_CTHW, self.fbank(samples_N)

    def members(self, shard: Path) -> Iterator[Mapping[str, bytes]]:
        """Yield the members of each sample of a shard."""
        from trichord.shards.reading.archive import open_archive
        from trichord.shards.reading.root import parse_root

        archive = open_archive(parse_root(shard.parent), shard.name)
        try:
            for position in range(len(archive)):
                yield archive.read(position).members
        finally:
            archive.close()


class _Webdataset:
    """The tar reading and the audio features that the other tools share."""

    def members(self, shard: Path) -> Iterator[Mapping[str, bytes]]:
        """Yield the members of each sample of a shard."""
        import webdataset

        yield from webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)

    def fbank(self, samples_N: Array) -> Array:
        """Return the filterbank of torchaudio."""
        make_importable()
        import torchaudio

        audio_TM: torch.Tensor = torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(samples_N)[None],
            htk_compat=True,
            sample_frequency=RATE,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=MELS,
            dither=0.0,
            frame_shift=10,
        )
        return audio_TM.numpy()

    @staticmethod
    def _shrink(frames_TCHW: torch.Tensor) -> Array:
        """Resize in the fast way (uint8, antialiased, channels last) and take the centre crop."""
        height, width = frames_TCHW.shape[-2:]
        short = min(height, width)
        size = (SIDE * height // short, SIDE * width // short)
        small = functional.interpolate(frames_TCHW, size, mode="bilinear", antialias=True)
        top, left = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
        return small[..., top : top + SIDE, left : left + SIDE].permute(1, 0, 2, 3).contiguous().numpy()


class Torchcodec(_Webdataset):
    """torchcodec, one FFmpeg thread, approximate seeking (its fastest exact mode at a constant frame rate)."""

    needs: ClassVar[tuple[str, ...]] = ("torchcodec",)

    def _decode(self, data: bytes, indices: Sequence[int]) -> torch.Tensor:
        from torchcodec import decoders

        decoder: Any = decoders.VideoDecoder(data, num_ffmpeg_threads=1, seek_mode="approximate")
        frames_TCHW: torch.Tensor = decoder.get_frames_at(list(indices)).data
        return frames_TCHW

    def frames(self, data: bytes, indices: Sequence[int]) -> Array:
        """Return frames_CTHW."""
        return self._shrink(self._decode(data, indices))

    def clip(self, data: bytes, start_s: float, end_s: float, indices: Sequence[int]) -> tuple[Array, Array]:
        """Return the frames and the filterbank of one window."""
        from torchcodec import decoders

        sound: Any = decoders.AudioDecoder(data, sample_rate=RATE, num_channels=1).get_samples_played_in_range(
            start_s, end_s
        )
        return self.frames(data, indices), self.fbank(sound.data[0].numpy())


class Decord(_Webdataset):
    """decord, one thread."""

    needs: ClassVar[tuple[str, ...]] = ("decord",)

    def frames(self, data: bytes, indices: Sequence[int]) -> Array:
        """Return frames_CTHW."""
        import decord

        reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
        frames_THWC = torch.from_numpy(reader.get_batch(list(indices)).asnumpy())
        return self._shrink(frames_THWC.permute(0, 3, 1, 2))


class PyAV(_Webdataset):
    """PyAV as most projects use it: decode the whole file to RGB, then index."""

    needs: ClassVar[tuple[str, ...]] = ()

    def frames(self, data: bytes, indices: Sequence[int]) -> Array:
        """Return frames_CTHW."""
        import av

        container: Any
        with av.open(io.BytesIO(data)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            every_THWC = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return self._shrink(torch.from_numpy(every_THWC[list(indices)]).permute(0, 3, 1, 2))


class Webdataset(_Webdataset):
    """webdataset alone, for reading tars."""

    needs: ClassVar[tuple[str, ...]] = ()
