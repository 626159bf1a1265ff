"""Create libavcodec decoders, and reuse those of H.264 for the next clip of the same kind.

The clips of a shard mostly come from one encoder with one configuration; a flushed decoder is then equivalent to a new
one, and its picture buffers are already allocated. A decoder that found parameter sets inside a clip, or an error, is
discarded, so that the state of an unusual clip cannot affect the next one. Audio decoders are always new, because the
state of AAC's noise generator survives a flush.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av

from trichord.shards.decoding.track import DecodeLimits, Track

KEPT = 4  # idle decoders per thread
# FFmpeg flag: keep the samples that the container marks as padding, so that each frame keeps its packet's number.
SKIP_MANUAL = 1 << 29

_Kind = tuple[str, bytes, int]


class _Kept(threading.local):
    """Idle decoders of the current thread, most recently used last."""

    def __init__(self) -> None:
        self.idle: OrderedDict[_Kind, Any] = OrderedDict()


_kept = _Kept()


class VideoDecoder:
    """A decoder in use; `spoilt` marks one that must not be reused."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.spoilt = False


@contextmanager
def video_decoder(track: Track, limits: DecodeLimits) -> Iterator[VideoDecoder]:
    """Provide a decoder for one pass over a track, in the state of a new one."""
    kind = (track.codec, track.extradata or b"", limits.max_pixels)
    may_be_kept = track.context is None and track.nal_length_size > 0
    idle = _kept.idle.pop(kind, None) if may_be_kept else None
    decoder = VideoDecoder(idle or _new_video_decoder(track, limits))
    healthy = False
    try:
        yield decoder
        healthy = True
    except GeneratorExit:  # the caller stopped early because it has its frames
        healthy = True
        raise
    finally:
        if track.context is not None:
            decoder.context.flush_buffers()  # it belongs to the container and is used for the next pass
        elif may_be_kept and healthy and not decoder.spoilt:
            decoder.context.flush_buffers()
            _kept.idle[kind] = decoder.context
            while len(_kept.idle) > KEPT:
                _kept.idle.popitem(last=False)


def _new_video_decoder(track: Track, limits: DecodeLimits) -> Any:
    if track.context is not None:
        context = track.context
    else:
        context = av.CodecContext.create(track.codec, "r")
        context.extradata = track.extradata
    if not context.is_open:
        context.thread_count = 1
        context.options = {"max_pixels": str(limits.max_pixels)}
    return context


def audio_decoder(track: Track) -> Any:
    """Return a decoder for an audio track."""
    context: Any
    if track.context is not None:
        context = track.context
    else:
        context = av.CodecContext.create(track.codec, "r")
        context.extradata = track.extradata
        context.sample_rate = track.sample_rate
    context.flags2 |= SKIP_MANUAL
    return context


def keep_freed_memory() -> bool:
    """Configure the allocator to keep freed picture buffers instead of requesting new pages each time.

    Intended for processes that only decode: their memory stays at its maximum, and page faults disappear. Only glibc
    has these settings; with other C libraries this does nothing and returns False.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    name = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(name), "mallopt", None) if name else None
    if mallopt is None:
        return False
    settings = ((mmap_threshold, 32 << 20), (trim_threshold, 512 << 20), (top_pad, 16 << 20))
    return all(mallopt(setting, value) for setting, value in settings)
