"""Clips whose pixels are decoded by torchcodec, if torchcodec and FFmpeg's libraries are installed.

Index, times, limits and sound come from this package, so that a recipe produces the same clips with either decoder;
pixels are the same if both versions of FFmpeg convert colours alike. Clips that need rotation, and those whose
container stores no presentation times, are not decoded with torchcodec.
Legend: T frames, H height, W width, C colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from trichord.core.errors import Cause, SampleError, UserError
from trichord.shards.decoding.demux import index_media
from trichord.shards.decoding.track import Deadline, DecodeLimits, Ints, MediaIndex
from trichord.shards.decoding.video import Pixels, Video


@cache
def torchcodec_decoders() -> Any:
    """Return the module `torchcodec.decoders`; raise UserError if it cannot be imported."""
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"torchcodec cannot be used here: {reason}. Next: pip install 'trichord[bench]' and FFmpeg's libraries "
            "(on Debian: apt-get install ffmpeg), or leave the decoder at 'planned'"
        ) from error
    return decoders


class TorchcodecVideo(Video):
    """A clip whose frames are decoded by torchcodec."""

    def __init__(self, data: bytes, index: MediaIndex, limits: DecodeLimits, deadline: Deadline) -> None:
        super().__init__(data, index, limits, deadline)
        self._bytes = data
        self._decoder: Any = None

    def frames(self, indices: Sequence[int] | Ints) -> Pixels:
        """Return frames by their index in presentation order, as RGB, in the order of `indices`."""
        wanted = np.asarray(indices, np.int64)
        if self._track.quarter_turns or not self._track.has_times:
            return super().frames(wanted)
        if wanted.size == 0 or wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"frame indices {wanted.tolist()}: expected one or more from 0 to {len(self) - 1}")
        self._deadline.check()
        try:
            if self._decoder is None:
                make = torchcodec_decoders().VideoDecoder
                self._decoder = make(self._bytes, dimension_order="NHWC", num_ffmpeg_threads=1)
            # The size in the container's tables was checked before; this checks the size in the stream itself.
            width, height = self._decoder.metadata.width or 0, self._decoder.metadata.height or 0
            self._limits.check_pixels(width, height)
            self._limits.check_frames(len(wanted), width, height)
            if len(self._decoder) != len(self):  # torchcodec interprets the edit list differently
                return super().frames(wanted)
            frames_THWC: Pixels = self._decoder.get_frames_at(wanted.tolist()).data.numpy()
        except (RuntimeError, ValueError, IndexError) as error:
            raise SampleError(Cause.CODEC, f"torchcodec: {error}") from error
        return frames_THWC


def open_with_torchcodec(data: bytes, limits: DecodeLimits) -> TorchcodecVideo:
    """Index a clip to be decoded by torchcodec; its time-out starts here and is checked before each call."""
    torchcodec_decoders()
    deadline = limits.start()
    return TorchcodecVideo(data, index_media(data, limits, deadline), limits, deadline)
