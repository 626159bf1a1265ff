"""Index a media file with libavformat: the general method, for files that are not ordinary mp4."""

from __future__ import annotations

from typing import Any

import numpy as np

from trichord.core.errors import Cause
from trichord.shards.decoding.container import first_streams, media_errors, open_container, read_packets
from trichord.shards.decoding.mp4 import NotPlainMp4, index_mp4
from trichord.shards.decoding.track import Deadline, DecodeLimits, MediaIndex, Track


def index_media(data: bytes, limits: DecodeLimits, deadline: Deadline) -> MediaIndex:
    """Return the index of a media file, from its own mp4 tables if these are reliable."""
    limits.check_bytes(len(data))
    try:
        return index_mp4(data, limits)
    except NotPlainMp4:
        return demux(data, limits, deadline)


def demux(data: bytes, limits: DecodeLimits, deadline: Deadline) -> MediaIndex:
    """Read all packets with libavformat without decoding them."""
    container = open_container(data, limits, deadline)
    streams = first_streams(container, limits)
    packets: dict[int, list[Any]] = {stream.index: [] for stream in streams}
    for packet in read_packets(container, streams, limits, deadline):
        if packet.size:
            packets[packet.stream_index].append(packet)
    with media_errors(Cause.UNREADABLE_VIDEO, "cannot be indexed"):
        tracks = {stream.type: _track(container, stream, packets[stream.index]) for stream in streams}
    return MediaIndex(tracks.get("video"), tracks.get("audio"))


def _track(container: Any, stream: Any, packets: list[Any]) -> Track:
    context = stream.codec_context
    has_times = all(packet.pts is not None for packet in packets)
    if container.format.name == "avi" and getattr(context, "has_b_frames", False):
        has_times = False  # AVI stores decode order only, which its demuxer presents as presentation times
    rate = float(getattr(stream, "average_rate", None) or 0) or 25.0
    if has_times:
        times_s = np.array([packet.pts * packet.time_base for packet in packets], np.float64)
    else:
        times_s = np.arange(len(packets)) / rate
    extradata = context.extradata
    has_length_prefixes = context.name == "h264" and extradata is not None and len(extradata) > 4 and extradata[0] == 1
    return Track(
        codec=context.name,
        times_s=times_s,
        sync=np.array([packet.is_keyframe for packet in packets], np.bool_),
        shown=np.array([not packet.is_discard for packet in packets], np.bool_),
        extradata=extradata,
        width=getattr(context, "width", 0),
        height=getattr(context, "height", 0),
        sample_rate=getattr(context, "sample_rate", 0) or 0,
        channels=getattr(context, "channels", 0) or 0,
        nal_length_size=(extradata[4] & 3) + 1 if has_length_prefixes and extradata is not None else 0,
        packets=[bytes(packet) for packet in packets],
        context=context,
        container=container,
        frames_per_second=rate,
        has_times=has_times,
    )
