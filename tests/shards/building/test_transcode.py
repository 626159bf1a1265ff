"""Transcoding: copies have the same bytes, and encoded files show the same content at the same times."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from tests.shards import media
from tests.shards.media import Pixels, Samples
from trichord.core.errors import Cause, SampleError
from trichord.shards.building.encode import X264_REPRODUCIBLE
from trichord.shards.building.transcode import Medium, Mode, Part, Preset, lossless_gray, make_medium
from trichord.shards.decoding.video import open_video

FPS = 25
FLASH_FRAME = 20  # the one bright frame, at 0.8 s; the sound starts there too
RATE = 16_000


def flash(frames: int = 40, width: int = 96, height: int = 64) -> Pixels:
    pictures = media.moving_picture(frames, width, height) // 3
    pictures[FLASH_FRAME] = 235
    return pictures


def bang(start_s: float = 0.0, seconds: float = 1.6, at_s: float = FLASH_FRAME / FPS) -> Samples:
    """A click at 0.8 s of the clip, in a track that starts at `start_s`."""
    time_N = start_s + np.arange(round((seconds - start_s) * RATE)) / RATE
    return np.where((time_N >= at_s) & (time_N < at_s + 0.05), 0.9, 0.0).astype(np.float32)


def flash_time(data: bytes) -> float:
    brightness_T = media.full_decode(data).mean(axis=(1, 2, 3))
    return float(media.full_times(data)[brightness_T.argmax()])


def bang_time(data: bytes) -> float:
    """Return the time of the first loud sample relative to the first frame, by libavformat alone."""
    mono_N, start_s, rate = media.full_sound(data)
    with av.open(io.BytesIO(data)) as file:
        first_frame_s = next(file.decode(video=0)).time
    return start_s + float(np.flatnonzero(np.abs(mono_N) > 0.3)[0]) / rate - float(first_frame_s)


def sync_distances(data: bytes) -> list[int]:
    with av.open(io.BytesIO(data)) as file:
        syncs = [n for n, packet in enumerate(p for p in file.demux(video=0) if p.size) if packet.is_keyframe]
    return [after - before for before, after in pairwise(syncs)]


def same_picture(one: Pixels, other: Pixels) -> bool:
    return float(np.abs(one.astype(int) - other.astype(int)).mean()) < 6.0


# Time


@pytest.mark.parametrize("mode", [Mode.REMUX, Mode.ENCODE])
@pytest.mark.parametrize("start_s", [0.0, 0.3])
@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_sound_and_picture_stay_together(mode: Mode, start_s: float, container: str) -> None:
    source = media.encode(
        flash(), bang(start_s), container=container, fps=FPS, sound_rate=RATE, sound_start_s=start_s, sound_codec="aac"
    )
    made = make_medium(source, container, mode, Preset())
    assert flash_time(made.data) == pytest.approx(0.8, abs=0.002)
    assert bang_time(made.data) == pytest.approx(bang_time(source), abs=0.004)
    if container != "mpegts":  # it cannot store how much of the codec delay to skip
        assert bang_time(made.data) == pytest.approx(0.8, abs=0.004)


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_avi_with_reordered_frames_keeps_their_order(codec: str) -> None:
    """AVI stores decode order only; with B-frames its times are unreliable, so frames are evenly spaced."""
    pictures = flash()
    source = media.encode(
        pictures, bang(), container="avi", codec=codec, fps=FPS, sound_codec="pcm_s16le", sound_rate=RATE,
        options={"bf": "2"},
    )  # fmt: skip
    made = make_medium(source, "avi", Mode.REMUX, Preset(crf=12))
    np.testing.assert_allclose(media.full_times(made.data), np.arange(40) / FPS, atol=1e-6)
    assert same_picture(media.full_decode(made.data), pictures)
    assert bang_time(made.data) == pytest.approx(0.8, abs=0.004)


@pytest.mark.parametrize("mode", [Mode.REMUX, Mode.ENCODE])
def test_variable_frame_rate_is_kept(mode: Mode) -> None:
    ticks = np.cumsum(np.random.default_rng(3).integers(10, 120, 40)).tolist()
    source = media.encode(media.moving_picture(40), ticks=ticks)
    made = make_medium(source, "mp4", mode, Preset(max_fps=None))
    np.testing.assert_allclose(media.full_times(made.data), (np.array(ticks) - ticks[0]) / 1000, atol=0.0011)


@pytest.mark.parametrize(("fps", "kept"), [(30, 60), (50, 60), (60, 60), (24, 60)])
def test_high_frame_rate_is_reduced_and_frames_keep_their_times(fps: int, kept: int) -> None:
    frames = fps * 2
    source = media.encode(media.moving_picture(frames, 64, 48), fps=fps, options={"preset": "ultrafast"})
    times_s = media.full_times(make_medium(source, "mp4", Mode.ENCODE, Preset()).data)
    assert len(times_s) == min(frames, kept)
    assert np.diff(times_s).min() > 0.9 / 50 and len(times_s) / 2 <= 30
    places = times_s * fps
    np.testing.assert_allclose(places, np.round(places), atol=1e-3)


@pytest.mark.parametrize(("start", "end"), [(0.4, 1.2), (0.0, 1.0), (0.39, None), (6.4, 7.2)])
def test_part_has_the_requested_start_and_end(start: float, end: float | None) -> None:
    """Sync samples are 50 frames apart, so that cutting needs re-encoding; the last case is reached by seeking."""
    click_N = bang(0.0, 8.0, at_s=start + 0.2)
    source = media.encode(
        media.moving_picture(200), click_N, fps=FPS, sound_rate=RATE, options={"g": "50", "crf": "12"}
    )
    made = make_medium(source, "mp4", Mode.COPY, Preset(crf=12), Part(start, end))
    first = int(np.ceil(start * FPS - 1e-6))
    last = 200 if end is None else int(np.ceil(end * FPS - 1e-6))
    assert same_picture(media.full_decode(made.data), media.full_decode(source)[first:last])
    assert bang_time(made.data) == pytest.approx(start + 0.2 - first / FPS, abs=0.004)
    if end is not None:
        with av.open(io.BytesIO(made.data)) as file:
            samples = sum(frame.samples for frame in file.decode(audio=0))
        assert samples / RATE == pytest.approx(end - start, abs=1024 / RATE)


# Pixels


def test_rotation_is_applied_to_the_pixels() -> None:
    source = media.rotated(
        media.encode(media.moving_picture(12), options={"crf": "10"}), (0, 1, -1, 0)
    )  # clockwise by a quarter
    made = make_medium(source, "mp4", Mode.ENCODE, Preset(crf=10))
    assert (made.width, made.height) == (64, 96)
    upright_THWC = np.rot90(media.full_decode(source), -1, axes=(1, 2))
    assert same_picture(media.full_decode(made.data), upright_THWC)
    with av.open(io.BytesIO(made.data)) as file:
        assert next(file.decode(video=0)).rotation == 0


def test_remuxing_to_mp4_keeps_rotation() -> None:
    source = media.rotated(media.encode(media.moving_picture(12)), (0, 1, -1, 0))
    assert (before := _rotation(source)) != 0
    assert _rotation(make_medium(source, "mp4", Mode.REMUX, Preset()).data) == before


def _rotation(data: bytes) -> int:
    with av.open(io.BytesIO(data)) as file:
        return int(next(file.decode(video=0)).rotation)


@pytest.mark.parametrize(
    ("width", "height", "short_side", "expected"),
    [
        (340, 256, 128, (170, 128)),
        (130, 200, 64, (64, 98)),  # 98.46
        (96, 64, 256, (96, 64)),  # never upscaled
        (97, 65, 256, (96, 64)),  # even, and not by upscaling
        (97, 65, None, (96, 64)),
    ],
)
def test_sizes(width: int, height: int, short_side: int | None, expected: tuple[int, int]) -> None:
    source = media.encode(media.moving_picture(4, width, height), pixel_format="yuv444p")
    made = make_medium(source, "mp4", Mode.ENCODE, Preset(short_side=short_side))
    assert (made.width, made.height) == expected
    assert media.full_decode(made.data).shape == (4, expected[1], expected[0], 3)


def test_non_square_pixels_become_square() -> None:
    source = io.BytesIO()
    with av.open(source, "w", "mp4") as file:
        stream = file.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for pixels in media.moving_picture(4):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        file.mux(stream.encode(None))
    made = make_medium(source.getvalue(), "mp4", Mode.ENCODE, Preset())
    assert (made.width, made.height) == (96, 32)


@pytest.mark.parametrize("pixel_format", ["yuvj420p", "yuv420p10le", "yuv444p", "yuv422p"])
def test_range_depth_and_chroma_are_converted_not_reinterpreted(pixel_format: str) -> None:
    source = media.encode(media.moving_picture(6), pixel_format=pixel_format, options={"crf": "8"})
    made = make_medium(source, "mp4", Mode.ENCODE, Preset(crf=8))
    before, after = media.full_decode(source).astype(int), media.full_decode(made.data).astype(int)
    assert abs(before.mean() - after.mean()) < 2.0  # confusing the ranges would shift the mean by about 8
    luma = np.array([0.299, 0.587, 0.114])  # chroma is subsampled in between
    assert np.abs(before @ luma - after @ luma).mean() < 4.0
    with av.open(io.BytesIO(made.data)) as file:
        assert next(file.decode(video=0)).format.name == "yuv420p"


def test_preset_has_short_closed_groups_and_the_index_in_front() -> None:
    source = media.encode(media.moving_picture(120), media.tone(4.8), options={"g": "250"})
    assert sync_distances(source) == []
    made = make_medium(source, "mp4", Mode.ENCODE, Preset())
    assert max(sync_distances(made.data)) <= Preset().gop and len(sync_distances(made.data)) >= 7
    assert made.data.index(b"moov") < made.data.index(b"mdat")
    with av.open(io.BytesIO(made.data)) as file:
        audio = file.streams.audio[0].codec_context
        assert (audio.name, audio.sample_rate, audio.channels) == ("aac", 44_100, 1)


@pytest.mark.parametrize(("rate", "expected"), [(8_000, 16_000), (48_000, 48_000), (22_050, 22_050)])
def test_usual_sample_rates_are_kept(rate: int, expected: int) -> None:
    sound_N = media.tone(1.2, rate)
    source = media.encode(media.moving_picture(30), sound_N, container="mov", sound_codec="pcm_s16le", sound_rate=rate)
    mono_N, _, got = media.full_sound(make_medium(source, "mov", Mode.ENCODE, Preset()).data)
    assert got == expected
    spectrum = np.abs(np.fft.rfft(mono_N[:got]))
    assert abs(int(spectrum.argmax()) - 440) <= 2


def test_the_same_input_gives_the_same_bytes() -> None:
    source = media.clip(60)
    assert len({make_medium(source, "mp4", Mode.REMUX, Preset()).data for _ in range(2)}) == 1
    assert len({make_medium(source, "mp4", Mode.ENCODE, Preset()).data for _ in range(8)}) == 1


@pytest.mark.parametrize("instructions", media.X264_INSTRUCTIONS)
def test_another_processor_gives_the_same_video(instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg is limited to plain C, and x264 to that or to the features of every x86-64 processor."""
    plain = media.encode(media.moving_picture(40, 130, 96), media.tone(1.6))
    sources = (plain, media.rotated(plain, (0, 1, -1, 0)))  # which is converted by way of RGB
    volume_DHW = np.random.default_rng(1).integers(0, 256, (20, 64, 64), dtype=np.uint8)

    def made() -> list[list[bytes]]:
        clips = [make_medium(source, "mp4", Mode.ENCODE, Preset(short_side=48)).data for source in sources]
        return [_payloads(clip, "video") for clip in (*clips, lossless_gray(volume_DHW, 14))]

    expected = made()
    limited = f"{X264_REPRODUCIBLE['x264-params']}:asm={instructions}"
    monkeypatch.setitem(X264_REPRODUCIBLE, "x264-params", limited)
    with media.plain_ffmpeg():
        assert made() == expected


@pytest.mark.parametrize("shape", [(28, 28, 28), (5, 27, 33), (1, 64, 64)])
def test_lossless_volumes(shape: tuple[int, int, int]) -> None:
    volume_DHW = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    frames_THWC = media.full_decode(lossless_gray(volume_DHW, 14))
    np.testing.assert_array_equal(frames_THWC, np.repeat(volume_DHW[..., None], 3, axis=-1))


# Modes


@pytest.mark.parametrize(("container", "extension"), [("mp4", ".mp4"), ("avi", "AVI"), ("matroska", "mkv")])
def test_copy_keeps_every_byte_and_the_extension(container: str, extension: str) -> None:
    source = media.encode(media.moving_picture(10), container=container)
    made = make_medium(source, extension, Mode.COPY, Preset())
    assert (made.data, made.extension) == (source, extension.lower().lstrip("."))
    assert (made.width, made.height, made.has_sound) == (96, 64, False)
    assert made.duration_s == pytest.approx(0.4, abs=0.01) and made.fps == pytest.approx(25, abs=0.5)


def test_copy_remuxes_unknown_containers_to_mp4() -> None:
    source = media.encode(media.moving_picture(10), container="flv")
    made = make_medium(source, "flv", Mode.COPY, Preset())
    assert made.extension == "mp4"
    np.testing.assert_array_equal(media.full_decode(made.data), media.full_decode(source))


def test_remuxing_to_mp4_keeps_every_packet() -> None:
    source = media.encode(media.moving_picture(40), media.tone(1.6), container="matroska", options={"g": "250"})
    made = make_medium(source, "mkv", Mode.REMUX, Preset())
    assert made.data.index(b"moov") < made.data.index(b"mdat")
    np.testing.assert_array_equal(media.full_decode(made.data), media.full_decode(source))
    for stream in ("video", "audio"):
        assert _payloads(made.data, stream) == _payloads(source, stream)


def _payloads(data: bytes, stream: str) -> list[bytes]:
    with av.open(io.BytesIO(data)) as file:
        return [bytes(packet) for packet in file.demux(**{stream: 0}) if packet.size]


def test_remuxing_to_mp4_encodes_codecs_that_mp4_cannot_hold() -> None:
    source = media.encode(
        media.moving_picture(20), media.tone(0.8), container="mpeg", codec="mpeg1video", sound_codec="mp2"
    )
    made = make_medium(source, "mpg", Mode.REMUX, Preset(short_side=32))
    assert (made.extension, made.width, made.height, made.has_sound) == ("mp4", 96, 64, True), "its size is kept"
    assert len(media.full_decode(made.data)) == 20


# Unusable files


def sound_only() -> bytes:
    with io.BytesIO() as out, av.open(out, "w", "mp4") as file:
        stream = file.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(media.tone(1.0, RATE)[None], "fltp", "mono")
        frame.sample_rate = RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        file.close()
        return out.getvalue()


def with_garbled_packets() -> bytes:
    source = media.encode(media.moving_picture(40), codec="mpeg4", container="avi")
    with av.open(io.BytesIO(source)) as file:
        spans = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    garbled = bytearray(source)
    for position, size in spans:
        start = source.index(b"\x00\x00\x01", position)
        garbled[start : position + size] = b"\xff" * (position + size - start)
    return bytes(garbled)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("data", "causes"),
    [
        (b"", {Cause.EMPTY}),
        (b"\x00" * 5000, {Cause.UNREADABLE_VIDEO}),
        (media.clip()[: len(media.clip()) // 2], {Cause.UNREADABLE_VIDEO}),
        (sound_only(), {Cause.NO_VIDEO}),
    ],
)
def test_unreadable_file_has_a_cause(mode: Mode, data: bytes, causes: set[Cause]) -> None:
    with pytest.raises(SampleError) as caught:
        make_medium(data, "mp4", mode, Preset())
    assert caught.value.cause in causes and caught.value.detail


@pytest.mark.parametrize("mode", list(Mode))
def test_truncated_file_is_refused(mode: Mode) -> None:
    source = media.encode(media.moving_picture(60), muxer_options={"movflags": "faststart"})
    with pytest.raises(SampleError) as caught:
        make_medium(source[: len(source) * 2 // 3], "mp4", mode, Preset())
    assert caught.value.cause is Cause.TRUNCATED_VIDEO


def test_garbled_frames_are_refused_when_encoding() -> None:
    with pytest.raises(SampleError) as caught:
        make_medium(with_garbled_packets(), "avi", Mode.ENCODE, Preset())
    assert caught.value.cause in {Cause.CODEC, Cause.NO_VIDEO}


def test_a_part_beyond_the_end_is_refused() -> None:
    with pytest.raises(SampleError, match=r"the clip starts at 9 s, but the source lasts 1\.20 s") as caught:
        make_medium(media.clip(), "mp4", Mode.COPY, Preset(), Part(9.0, 10.0))
    assert caught.value.cause is Cause.NO_VIDEO


def test_medium_describes_itself() -> None:
    made: Medium = make_medium(media.clip(50), "mp4", Mode.ENCODE, Preset())
    assert (made.width, made.height, made.has_sound) == (96, 64, True)
    assert made.duration_s == pytest.approx(2.0, abs=0.01) and made.fps == pytest.approx(25.0, abs=0.1)


def test_sound_that_ends_before_the_clip_becomes_silence() -> None:
    data = media.encode(media.moving_picture(30), media.tone(0.2))
    made = make_medium(data, "mp4", Mode.ENCODE, Preset(), Part(0.6, 1.0))
    assert made.has_sound
    sound_N = open_video(made.data).sound(0.0, 0.4, 16000)
    assert sound_N is not None and np.abs(sound_N).max() < 0.01
