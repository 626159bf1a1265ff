"""Damaged and malicious samples and shards, each with the cause under which it must be counted."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from tests.shards import media
from trichord.core.errors import Cause

FAST = {"preset": "ultrafast"}
PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{0}\n#EXT-X-ENDLIST\n"


@dataclass(frozen=True)
class Sample:
    """The members of a key, and the cause under which it must be counted; None if it is unusual but good."""

    members: dict[str, bytes]
    cause: Cause | None = None


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def good_clip(seed: int) -> dict[str, bytes]:
    caption = f"clip number {seed}"
    document = {"labels": [seed % 3], "captions": [f"another caption of {seed}"]}
    return {"mp4": media.clip(10, seed), "txt": caption.encode(), "json": json.dumps(document).encode()}


def samples(secret: Path, trap: Path) -> dict[str, Sample]:
    """Return all hostile and unusual samples; `secret` must never be opened, and `trap` must never appear."""
    ordinary = media.clip(10)
    in_front = media.encode(media.moving_picture(10), options=FAST, muxer_options={"movflags": "faststart"})
    noise = np.random.default_rng(0).bytes(5000)
    deep = b'{"labels": ' + b"[" * 200_000
    annotated = {"mp4": ordinary}
    return {
        "cut_before_its_index": Sample({"mp4": ordinary[: len(ordinary) * 6 // 10]}, Cause.UNREADABLE_VIDEO),
        "cut_behind_its_index": Sample({"mp4": in_front[: len(in_front) * 6 // 10]}, Cause.TRUNCATED_VIDEO),
        "zero_bytes": Sample({"mp4": b""}, Cause.EMPTY),
        "noise": Sample({"mp4": noise}, Cause.UNREADABLE_VIDEO),
        "no_media_member": Sample({"txt": b"only words"}, Cause.NO_VIDEO),
        "only_sound": Sample({"mp4": only_sound()}, Cause.NO_VIDEO),
        "no_sound": Sample({"mp4": media.clip(10, sound=False)}),
        "variable_rate": Sample({"mp4": media.encode(media.moving_picture(6), ticks=[0, 40, 900, 1000, 3000, 3001])}),
        "rotated": Sample({"mp4": media.rotated(ordinary, (0, 1, -1, 0))}),
        "odd_size": Sample({"mp4": media.encode(media.moving_picture(8, 75, 51), pixel_format="yuv444p")}),
        "one_frame": Sample({"mp4": media.encode(media.moving_picture(1))}),
        "ten_bit": Sample({"mp4": media.encode(media.moving_picture(8), pixel_format="yuv420p10le")}),
        "huge_size_declared": Sample({"mp4": declare_size(ordinary, 65535, 65535)}, Cause.TOO_MANY_PIXELS),
        "huge_size_hidden": Sample({"mp4": declare_size(large_picture(), 96, 64)}, Cause.CODEC),
        "endless_small_pictures": Sample({"mp4": repeated(1920, 1088, 12_000)}, Cause.TIMEOUT),
        "endless_packets": Sample({"mp4": repeated(64, 64, 21_000)}, Cause.TOO_MANY_FRAMES),
        "two_days": Sample({"mp4": slowed(ordinary)}, Cause.TOO_LONG),
        "playlist": Sample({"mp4": PLAYLIST.format(secret).encode()}, Cause.UNREADABLE_VIDEO),
        "list_of_files": Sample(
            {"mp4": f"ffconcat version 1.0\nfile {secret.name}\n".encode()}, Cause.UNREADABLE_VIDEO
        ),
        "pickle_beside": Sample({"mp4": ordinary, "pkl": pickle.dumps(Bomb(trap)), "npy": b"\x93NUMPY"}),
        "invalid_json": Sample({**annotated, "json": b'{"labels": [1,'}, Cause.BAD_JSON),
        "deep_json": Sample({**annotated, "json": deep}, Cause.BAD_JSON),
        "other_json": Sample(
            {**annotated, "json": b'{"intervals": [{"label": 0, "start": "run", "end": 1}]}'}, Cause.BAD_JSON
        ),
        "caption_not_utf8": Sample({**annotated, "txt": b"caf\xe9 au lait"}, Cause.BAD_TEXT),
    }


def write_tar(path: Path, members: list[tuple[str, bytes]], link: str | None = None) -> None:
    """Write members with these names, unchecked."""
    with tarfile.open(path, "w") as file:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            file.addfile(header, io.BytesIO(content))
        if link is not None:
            header = tarfile.TarInfo("link.mp4")
            header.type, header.linkname = tarfile.SYMTYPE, link
            file.addfile(header)


def named(members: dict[str, dict[str, bytes]]) -> list[tuple[str, bytes]]:
    return [(f"{key}.{suffix}", content) for key, parts in members.items() for suffix, content in parts.items()]


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def only_sound() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", "mp4") as file:
        stream = file.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(media.tone(0.5)[None], format="fltp", layout="mono")
        frame.sample_rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def declare_size(data: bytes, width: int, height: int) -> bytes:
    """Write another size into the sample description; that in the bit stream is unchanged."""
    at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
    return data[:at] + struct.pack(">HH", width, height) + data[at + 4 :]


def slowed(data: bytes) -> bytes:
    """Make every frame last almost two days, by one number in the table of times; the edit list is disabled."""
    at = data.index(b"stts") + 16
    return (data[:at] + struct.pack(">I", 2**31) + data[at + 4 :]).replace(b"edts", b"free")


def large_picture() -> bytes:
    """A black frame of 33 million pixels in a few kilobytes."""
    return media.encode(np.zeros((1, 4096, 8192, 3), np.uint8), options=FAST)


def repeated(width: int, height: int, times: int) -> bytes:
    """An mp4 of one frame and one empty difference to it, repeated many times: a few bytes per frame."""
    source = media.encode(np.zeros((2, height, width, 3), np.uint8), codec="mpeg4")
    out = io.BytesIO()
    with av.open(io.BytesIO(source)) as given, av.open(out, "w", "mp4") as file:
        stream = file.add_stream_from_template(given.streams.video[0])
        first, change = [bytes(packet) for packet in given.demux(video=0) if packet.size]
        for number in range(times):
            packet = av.Packet(change if number else first)
            packet.stream, packet.time_base = stream, given.streams.video[0].time_base
            packet.pts = packet.dts = number * 512
            packet.duration, packet.is_keyframe = 512, number == 0
            file.mux(packet)
    return out.getvalue()
