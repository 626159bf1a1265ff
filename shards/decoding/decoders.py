"""Set up libavcodec's decoders, and keep H.264's for the next clip of the same kind.

The clips of a shard mostly come from one encoder with one configuration; a decoder that was flushed is then as good as
a new one, and its picture buffers are already in memory. One that met parameter sets inside a clip, or an error, is
thrown away: what a strange clip left behind must not reach the next one. Sound decoders are always new, since AAC draws
noise from a generator that outlives a flush.
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

KEPT = 4  # decoders a thread keeps
# FFmpeg: leave samples that a container marks as padding to us, so that each frame keeps its packet's number.
SKIP_MANUAL = 1 << 29

_Kind = tuple[str, bytes, int]


class _Kept(threading.local):
    """This thread's idle decoders, the last used at the end."""

    def __init__(self) -> None:
        self.idle: OrderedDict[_Kind, Any] = OrderedDict()


_kept = _Kept()


class VideoDecoder:
    """A decoder in use; `spoilt` says that it must not be used again."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.spoilt = False


@contextmanager
def video_decoder(track: Track, limits: DecodeLimits) -> Iterator[VideoDecoder]:
    """Lend a decoder for one pass over a track, in a state as if new."""
    kind = (track.codec, track.extradata or b"", limits.max_pixels)
    may_be_kept = track.context is None and track.nal_length_size > 0
    idle = _kept.idle.pop(kind, None) if may_be_kept else None
    decoder = VideoDecoder(idle or _new_video_decoder(track, limits))
    healthy = False
    try:
        yield decoder
        healthy = True
    except GeneratorExit:  # whoever asked for frames has what they wanted
        healthy = True
        raise
    finally:
        if track.context is not None:
            decoder.context.flush_buffers()  # it is the container's own, for the next pass
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
    """Give a decoder for a track's sound."""
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
    """Let this process's allocator hold on to freed pictures instead of asking the kernel for new pages each time.

    For processes that do nothing but decode: their memory stays at its high-water mark, and page faults vanish.
    Only glibc knows these settings; elsewhere this does nothing and says False.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    name = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(name), "mallopt", None) if name else None
    if mallopt is None:
        return False
    settings = ((mmap_threshold, 32 << 20), (trim_threshold, 512 << 20), (top_pad, 16 << 20))
    return all(mallopt(setting, value) for setting, value in settings)
