"""Media of any origin: formats, pixels, seconds and time are limited wherever a file is opened."""

from __future__ import annotations

import re
import struct
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.shards import media
from tests.shards.inspection.hostile import declare_size
from trichord.core.errors import Cause, SampleError
from trichord.shards.building import transcode
from trichord.shards.building.encode import _continuous
from trichord.shards.building.source_frames import Part
from trichord.shards.building.transcode import Mode, Preset, make_medium
from trichord.shards.decoding import video as decoding
from trichord.shards.decoding.demux import index_media
from trichord.shards.decoding.track import Deadline, DecodeLimits
from trichord.shards.decoding.video import open_video

ROOT = Path(__file__).resolve().parents[3]
PORT = 50_104


def test_only_one_module_opens_media_to_read_it() -> None:
    opened = re.compile(r"\bav\.open\((?P<line>.*)")
    for folder in ("shards", "pretrain", "finetune", "launch", "trichord/core", "trichord/api"):
        for path in (ROOT / folder).rglob("*.py"):
            for found in opened.finditer(path.read_text()):
                assert '"w"' in found["line"] or path.name == "container.py", path


def playlist_in_an_mp4() -> bytes:
    """An mp4 whose file type box has the length, and the text, that make it a session description to libavformat."""
    lines = ("v=0", "c=IN IP4 127.0.0.1", "t=0 0", f"m=video {PORT} RTP/AVP 96", "a=rtpmap:96 H264/90000", "")
    ordinary = media.encode(media.moving_picture(8), muxer_options={"movflags": "faststart"})
    size = 0x01010101
    box = struct.pack(">I", size) + b"ftypjp2 \n" + "\r\n".join(lines).encode()
    at = ordinary.index(b"stco") + 12
    (chunk,) = struct.unpack_from(">I", ordinary, at)
    return box.ljust(size, b"\0") + ordinary[:at] + struct.pack(">I", chunk + size) + ordinary[at + 4 :]


@pytest.mark.parametrize("mode", list(Mode))
def test_playlist_in_an_mp4_opens_no_socket(mode: Mode) -> None:
    data, seen, done = playlist_in_an_mp4(), threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            if f":{PORT:04X} " in Path("/proc/self/net/udp").read_text():
                seen.set()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with pytest.raises(SampleError) as caught:
            make_medium(data, "mp4", mode, Preset(), Part(0.1) if mode is Mode.REMUX else None)
    finally:
        done.set()
        watching.join()
    assert caught.value.cause is Cause.UNREADABLE_VIDEO and not seen.is_set()


@pytest.mark.parametrize(("mode", "part"), [(Mode.ENCODE, Part()), (Mode.REMUX, Part(0.1))])
def test_size_hidden_in_the_stream_is_refused_by_the_encoder_too(
    mode: Mode, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcode, "SOURCE_LIMITS", replace(transcode.SOURCE_LIMITS, max_pixels=2000))
    data = declare_size(media.clip(8), 32, 32)
    with pytest.raises(SampleError) as caught:
        make_medium(data, "mp4", mode, Preset(), part)
    assert caught.value.cause in (Cause.NO_VIDEO, Cause.CODEC, Cause.TOO_MANY_PIXELS)


def test_sound_that_jumps_ahead_becomes_silence_in_small_pieces() -> None:
    rate = 16_000
    piece_CN = np.ones((2, 1000), np.float32)
    pieces = iter([(Fraction(0), piece_CN), (Fraction(3600), piece_CN)])
    lengths = [samples_CN.shape[1] for samples_CN in _continuous(pieces, Fraction(0), None, rate, DecodeLimits())]
    assert sum(lengths) == 3600 * rate + 1000 and max(lengths) <= rate
    far = iter([(Fraction(0), piece_CN), (Fraction(360_000), piece_CN)])
    with pytest.raises(SampleError, match="360000 s, the limit is"):
        list(_continuous(far, Fraction(0), None, rate, DecodeLimits()))


def test_sound_days_after_the_picture_is_refused() -> None:
    data = media.encode(media.moving_picture(8), media.tone(0.3), container="matroska", sound_start_s=360_000.0)
    with pytest.raises(SampleError) as caught:
        make_medium(data, "mkv", Mode.ENCODE, Preset())
    assert caught.value.cause is Cause.TOO_LONG


def test_deadline_is_checked_before_packets_that_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(media.clip(50, sound=False))
    index = index_media(bytes(data), DecodeLimits(), DecodeLimits().start())
    assert index.video is not None and index.video.offsets is not None
    for offset in index.video.offsets[1:]:
        data[int(offset) + 4] &= 0x9F  # nal_ref_idc 0: no other picture refers to it
    seen: list[int] = []
    look = decoding.look_into
    monkeypatch.setattr(decoding, "look_into", lambda track, payload: seen.append(len(payload)) or look(track, payload))
    clip = open_video(bytes(data))
    clip.frames([49])
    skipped = len(seen)
    clip._deadline = Deadline(-1.0)
    with pytest.raises(SampleError, match="processor time"):
        clip.frames([49])
    assert skipped > 40 and len(seen) == skipped


def test_source_is_not_encoded_beyond_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcode, "SOURCE_LIMITS", replace(transcode.SOURCE_LIMITS, timeout_s=0.2))
    data = media.clip(400)
    make_medium(data, "mp4", Mode.ENCODE, Preset(speed="placebo"))  # each frame adds to the time
    monkeypatch.setattr(transcode, "_ENCODE_S", 0.0)
    began_s = time.thread_time()
    with pytest.raises(SampleError) as caught:
        make_medium(data, "mp4", Mode.ENCODE, Preset(speed="placebo"))
    assert caught.value.cause is Cause.TIMEOUT and time.thread_time() - began_s < 5
