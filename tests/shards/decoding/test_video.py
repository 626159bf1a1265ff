"""Planned decoding returns the exact pixels, times and samples of a full decode, within limits."""

from __future__ import annotations

import contextlib
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.shards import media
from trichord.core.errors import Cause, SampleError
from trichord.shards.decoding import decoders, demux, mp4
from trichord.shards.decoding import video as decode
from trichord.shards.decoding.track import DecodeLimits, Track, make_packet
from trichord.shards.decoding.video import Seen, Video, look_into, open_video, segments

PICTURES = media.moving_picture(40)
FORMS: dict[str, dict[str, object]] = {
    "gop12": {"options": {"g": "12"}},
    "one gop": {"options": {"g": "250"}},
    "b pyramid": {"options": {"g": "30", "bf": "3", "x264-params": "b-pyramid=normal:scenecut=0"}},
    "open gop": {"options": {"g": "10", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}},
    "no b frames": {"options": {"bf": "0"}},
    "intra refresh": {"options": {"x264-params": "intra-refresh=1:keyint=10"}},
    "interlaced": {"options": {"x264-params": "tff=1:keyint=12"}},
    "fast decode": {"options": {"g": "8", "tune": "fastdecode"}},
    "moov first": {"muxer_options": {"movflags": "faststart"}},
    "fragmented": {"muxer_options": {"movflags": "frag_keyframe+empty_moov"}},
    "ten bit": {"pixel_format": "yuv420p10le"},
    "full chroma": {"pixel_format": "yuv444p"},
    "full range": {"pixel_format": "yuvj420p"},
    "hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=10"}},
    "matroska": {"container": "matroska", "options": {"g": "12"}},
    "transport stream": {"container": "mpegts", "options": {"g": "12"}},
    "vp9 webm": {"container": "webm", "codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mpeg4 avi": {"container": "avi", "codec": "mpeg4"},
    "mpeg4 avi with b frames": {"container": "avi", "codec": "mpeg4", "options": {"bf": "2"}},
    "h264 avi": {"container": "avi", "options": {"g": "12", "bf": "2"}},
    "motion jpeg": {"container": "avi", "codec": "mjpeg", "pixel_format": "yuvj420p"},
    "mpeg1": {"container": "mpeg", "codec": "mpeg1video"},
}


@pytest.mark.parametrize("form", FORMS)
def test_any_choice_of_frames_equals_the_full_decode(form: str) -> None:
    data = media.encode(PICTURES, **FORMS[form])  # type: ignore[arg-type]
    expected = media.full_decode(data)
    video = open_video(data)
    assert len(video) == len(expected)
    rng = np.random.default_rng(1)
    choices = [np.arange(len(expected)), np.array([3, 3, 0]), np.linspace(0, len(expected) - 1, 8).round().astype(int)]
    choices += [rng.integers(0, len(expected), rng.integers(1, 9)) for _ in range(6)]
    for chosen in choices:
        np.testing.assert_array_equal(video.frames(chosen), expected[chosen], err_msg=f"{form}: {chosen}")


def test_index_from_the_tables_of_an_mp4_equals_that_of_libavformat() -> None:
    limits = DecodeLimits()
    data = media.encode(PICTURES, media.tone(1.6), options={"g": "12", "bf": "3"})
    ours, theirs = mp4.index_mp4(data, limits), demux.demux(data, limits, limits.start())
    for mine, other in ((ours.video, theirs.video), (ours.audio, theirs.audio)):
        assert mine is not None and other is not None
        np.testing.assert_allclose(mine.times_s, other.times_s, atol=1e-9)
        np.testing.assert_array_equal(mine.sync, other.sync)
        view = memoryview(data)
        assert [bytes(mine.payload(view, n)) for n in range(len(mine))] == other.packets
        assert mine.extradata == other.extradata


def test_unreferenced_frames_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = media.encode(PICTURES, options={"g": "40", "bf": "3", "x264-params": "scenecut=0:b-adapt=0"})
    video = open_video(data)
    fed: list[int] = []

    def count(payload: bytes | memoryview, number: int) -> object:
        fed.append(number)
        return make_packet(payload, number)

    monkeypatch.setattr(decode, "make_packet", count)
    np.testing.assert_array_equal(video.frames([39])[0], media.full_decode(data)[39])
    assert 0 < len(fed) < 0.7 * 40


def test_in_band_parameter_sets_do_not_affect_the_next_clip() -> None:
    """The header has the same configuration, the stream another one: such a decoder must not be reused."""
    plain = media.encode(PICTURES, options={"g": "12"})
    repeated = media.encode(PICTURES, options={"g": "12", "x264-params": "repeat-headers=1"})
    open_video(plain).frames([0])
    idle = dict(decoders._kept.idle)
    assert idle
    open_video(repeated).frames([0])
    assert all(context in idle.values() for context in decoders._kept.idle.values())
    np.testing.assert_array_equal(open_video(plain).frames([39, 2]), media.full_decode(plain)[[39, 2]])


def test_reused_decoder_equals_a_new_one() -> None:
    clips = [media.encode(media.moving_picture(24, seed=seed), options={"g": "8", "bf": "3"}) for seed in range(3)]
    expected = [media.full_decode(clip) for clip in clips]
    rng = np.random.default_rng(0)
    for _ in range(30):
        number, chosen = int(rng.integers(3)), rng.integers(0, 24, 3)
        np.testing.assert_array_equal(open_video(clips[number]).frames(chosen), expected[number][chosen])
    broken = bytearray(clips[0])
    at = broken.index(b"mdat") + 40
    broken[at : at + 300] = bytes(300)
    with contextlib.suppress(SampleError):
        open_video(bytes(broken)).frames(range(24))
    np.testing.assert_array_equal(open_video(clips[0]).frames(range(24)), expected[0])


def test_leading_frame_of_an_open_group_needs_the_previous_group() -> None:
    track = Track(
        codec="h264",
        times_s=np.array([0.0, 3.0, 1.0, 2.0, 6.0, 4.0, 5.0, 7.0]),
        sync=np.array([1, 0, 0, 0, 1, 0, 0, 0], bool),
        shown=np.ones(8, bool),
    )
    assert segments(track, np.array([5])) == [(0, 6)]
    assert segments(track, np.array([7])) == [(4, 8)]
    assert segments(track, np.array([1, 7])) == [(0, 2), (4, 8)]
    assert segments(track, np.array([2, 5, 7])) == [(0, 8)]


def test_variable_frame_rate_keeps_the_times_of_the_file() -> None:
    ticks = [0, 40, 200, 210, 500, 900, 910, 1500]
    data = media.encode(PICTURES[:8], ticks=ticks, options={"bf": "2"})
    np.testing.assert_allclose(open_video(data).times_s, np.array(ticks) / 1000, atol=1e-3)
    np.testing.assert_allclose(open_video(data).times_s, media.full_times(data), atol=1e-6)


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_rotation_is_applied(matrix: tuple[int, int, int, int], turns: int) -> None:
    upright = media.encode(PICTURES[:4])
    video = open_video(media.rotated(upright, matrix))
    frames = video.frames([0, 3])
    np.testing.assert_array_equal(frames, np.rot90(media.full_decode(upright)[[0, 3]], turns, (1, 2)))
    assert (video.height, video.width) == frames.shape[1:3]


def test_rotation_direction_agrees_with_ffmpeg() -> None:
    data = media.rotated(media.encode(PICTURES[:4]), (0, 1, -1, 0))
    limits = DecodeLimits()
    general = Video(data, demux.demux(data, limits, limits.start()), limits, limits.start())
    np.testing.assert_array_equal(general.frames([0, 2]), open_video(data).frames([0, 2]))


@pytest.mark.parametrize("size", [(97, 65), (2, 2), (350, 18)])
def test_odd_and_tiny_sizes(size: tuple[int, int]) -> None:
    width, height = size
    data = media.encode(media.moving_picture(5, width, height), codec="libx264", pixel_format="yuv444p")
    np.testing.assert_array_equal(open_video(data).frames([0, 4]), media.full_decode(data)[[0, 4]])


def test_a_single_frame_is_a_clip() -> None:
    video = open_video(media.encode(PICTURES[:1]))
    assert len(video) == 1 and video.times_s.tolist() == [0.0] and video.duration_s == pytest.approx(0.04)
    assert not video.has_sound and video.sound(0, 1, 16000) is None


@pytest.mark.parametrize("container", ["mp4", "matroska", "mov"])
@pytest.mark.parametrize("window", [(0.0, 0.5), (0.31, 1.17), (1.0, 1.6)])
def test_sound_equals_the_full_decode(container: str, window: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    noise = (0.2 * rng.standard_normal(round(1.6 * 44100))).astype(np.float32)
    # Without noise substitution, whose noise depends on the number of packets decoded before.
    data = media.encode(PICTURES, noise, container=container, sound_options={"aac_pns": "0"})
    whole, start_s, rate = media.full_sound(data)
    begin = round((window[0] - start_s) * rate)
    found = open_video(data).sound(*window, rate)
    assert found is not None and len(found) == round((window[1] - window[0]) * rate)
    padded = np.pad(whole, (rate, rate))
    # Matroska's clock ticks in milliseconds: one sample of the codec delay may remain at the start.
    shifts, first = (range(-45, 46), 45) if container == "matroska" else (range(1), 0)
    wrong = [np.abs(found - padded[rate + begin + shift :][: len(found)])[first:].max() for shift in shifts]
    assert min(wrong) < 2e-3


def test_resampled_sound_is_aligned_with_the_window() -> None:
    data = media.encode(PICTURES, media.tone(1.6, frequency=440.0))
    for start_s in (0.2, 0.3337, 0.71):
        found = open_video(data).sound(start_s, start_s + 0.5, 16000)
        assert found is not None
        expected = 0.3 * np.sin(2 * np.pi * 440 * (start_s + np.arange(8000) / 16000))
        assert np.abs(found[200:-200] - expected[200:-200]).max() < 0.02


def test_sound_that_starts_late_is_placed_by_its_start_time() -> None:
    beep = media.tone(0.4, frequency=1000.0)
    data = media.encode(PICTURES, beep, sound_start_s=0.8)
    found = open_video(data).sound(0.0, 1.6, 16000)
    assert found is not None
    loud = np.flatnonzero(np.abs(found) > 0.1) / 16000
    assert loud[0] == pytest.approx(0.8, abs=0.03) and loud[-1] == pytest.approx(1.2, abs=0.05)


def test_a_window_beyond_the_track_is_silence_of_the_right_length() -> None:
    found = open_video(media.encode(PICTURES, media.tone(0.5))).sound(-1.0, 3.0, 16000)
    assert found is not None and len(found) == 64000
    assert not found[:15000].any() and not found[32000:].any() and found[17000:23000].any()


def test_opus_with_its_pre_skip_is_aligned() -> None:
    data = media.encode(
        PICTURES, media.tone(1.6, 48000, 1000.0), container="mp4", sound_codec="libopus", sound_rate=48000
    )
    found = open_video(data).sound(0.3, 1.3, 48000)
    assert found is not None
    expected = 0.3 * np.sin(2 * np.pi * 1000 * (0.3 + np.arange(48000) / 48000))
    assert np.abs(found - expected).max() < 0.03


def _cause(data: bytes, limits: DecodeLimits | None = None, frames: int = 1) -> Cause:
    with pytest.raises(SampleError) as caught:
        open_video(data, limits).frames(range(frames))
    return caught.value.cause


def test_failures_have_a_cause() -> None:
    good = media.clip(12)
    faststart = media.encode(PICTURES[:12], media.tone(0.5), muxer_options={"movflags": "faststart"})
    assert _cause(b"") == Cause.EMPTY
    assert _cause(b"\0" * 4096) == Cause.UNREADABLE_VIDEO
    assert _cause(good[: len(good) // 2]) == Cause.UNREADABLE_VIDEO  # the tables were at the end
    assert _cause(faststart[: len(faststart) * 3 // 4]) == Cause.TRUNCATED_VIDEO
    assert _cause(good, DecodeLimits(max_bytes=100)) == Cause.TOO_MANY_BYTES
    assert _cause(good, DecodeLimits(max_pixels=1000)) == Cause.TOO_MANY_PIXELS
    assert _cause(good, DecodeLimits(max_packets=5)) == Cause.TOO_MANY_FRAMES
    assert _cause(good, DecodeLimits(max_decoded_bytes=3 * 96 * 64 * 2), frames=3) == Cause.TOO_MANY_PIXELS
    assert _cause(good, DecodeLimits(timeout_s=-1.0)) == Cause.TIMEOUT


def test_deadline_counts_the_processor_time_of_the_own_thread_only() -> None:
    deadline = DecodeLimits(timeout_s=0.05).start()
    time.sleep(0.1)
    deadline.check()
    spend(0.06)
    with pytest.raises(SampleError, match="of processor time"):
        deadline.check()
    with ThreadPoolExecutor(1) as other:
        other.submit(spend, 0.06).result()
        other.submit(deadline.check).result()


def spend(seconds: float) -> None:
    """Keep the processor busy."""
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def test_oversized_table_is_refused_before_it_is_allocated() -> None:
    data = media.clip(4, sound=False)
    at = data.index(b"stsz") + 8
    forged = data[:at] + struct.pack(">II", 1, 1 << 31) + data[at + 8 :]
    with pytest.raises(mp4.NotPlainMp4, match="2147483648 packets"):
        mp4.index_mp4(forged, DecodeLimits())
    assert _cause(forged) == Cause.NO_VIDEO  # libavformat finds no packet


def test_raw_sound_is_not_mistaken_for_an_oversized_table() -> None:
    data = media.encode(PICTURES[:4], media.tone(1.0), container="mov", sound_codec="pcm_s16le")
    video = open_video(data, DecodeLimits(max_packets=1000))
    sound_N = video.sound(0.0, 0.1, 44100)
    assert sound_N is not None and sound_N.any() and len(video) == 4


def test_overflowing_offsets_are_outside_the_file() -> None:
    nowhere = np.array([(1 << 63) - 1], np.int64)
    track = Track("h264", np.zeros(1), np.ones(1, bool), np.ones(1, bool), offsets=nowhere, sizes=np.array([100]))
    with pytest.raises(SampleError, match="0 of 1 h264 packets"):
        mp4._check_extents(track, 1000)


def test_packet_of_a_million_empty_units_is_refused_early() -> None:
    track = Track("h264", np.zeros(1), np.ones(1, bool), np.ones(1, bool), nal_length_size=1)
    assert look_into(track, bytes(1 << 28)) == Seen(
        has_parameters=True
    )  # otherwise two minutes, regardless of the time-out


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_sound_with_nan_is_counted_and_not_returned(value: float) -> None:
    sound_N = media.tone(1.0)
    sound_N[2000:2010] = value
    track = media.encode(PICTURES[:25], sound_N, container="matroska", sound_codec="pcm_f32le")
    with pytest.raises(SampleError) as caught:
        open_video(track).sound(0.0, 0.5, 16000)
    assert caught.value.cause == Cause.AUDIO


def test_wrong_size_in_a_header_does_not_allocate_its_pixels() -> None:
    data = media.encode(media.moving_picture(2, 640, 480))
    at = data.index(b"avc1") + 4 + 24
    lie = data[:at] + struct.pack(">HH", 16, 16) + data[at + 4 :]
    assert _cause(lie, DecodeLimits(max_pixels=100_000)) in (Cause.CODEC, Cause.TOO_MANY_PIXELS)


def test_damaged_tables_are_an_error_not_a_crash() -> None:
    data = bytearray(media.clip(8))
    moov = data.index(b"moov")
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(moov, len(data), 3):
            damaged[at] = int(rng.integers(256))
        started = time.thread_time()
        try:
            video = open_video(bytes(damaged), DecodeLimits(timeout_s=5, max_pixels=1 << 20))
            video.frames([0, len(video) - 1])
            video.sound(0, 0.3, 16000)
        except SampleError:
            pass
        assert time.thread_time() - started < 6
