"""torchcodec, where it works, returns the same clips as the planned decoder."""

from __future__ import annotations

import sys

import av
import numpy as np
import pytest

from tests.shards import media
from trichord.core.errors import Cause, SampleError, UserError
from trichord.shards.decoding import torchcodec_video
from trichord.shards.decoding.torchcodec_video import open_with_torchcodec, torchcodec_decoders
from trichord.shards.decoding.track import DecodeLimits
from trichord.shards.decoding.video import Pixels, open_video

PICTURES = media.moving_picture(40)
LEVELS = 3  # the difference between swscale with and without SSSE3


def _works() -> bool:
    try:
        return torchcodec_decoders() is not None
    except UserError:
        return False


def assert_same_frames(theirs: Pixels, ours: Pixels) -> None:
    """Assert equality, bit for bit if both use one FFmpeg, else within the difference of two colour conversions."""
    from torchcodec._core import get_ffmpeg_library_versions

    is_one = tuple(get_ffmpeg_library_versions()["libavutil"]) == av.library_versions["libavutil"]
    assert theirs.shape == ours.shape and theirs.dtype == ours.dtype
    assert np.abs(theirs.astype(int) - ours.astype(int)).max() <= (0 if is_one else LEVELS)


needs_torchcodec = pytest.mark.skipif(not _works(), reason="torchcodec or FFmpeg's libraries are not installed")


@needs_torchcodec
@pytest.mark.parametrize(
    "form",
    [
        {"options": {"g": "12", "bf": "3"}},
        {"options": {"g": "250"}},
        {"container": "matroska"},
        {"container": "avi", "codec": "mpeg4", "options": {"bf": "2"}},
        {"ticks": [0, 40, 200, 210, 500, 900, 910, 1500]},
    ],
)
def test_frames_times_and_sound_are_the_same(form: dict[str, object]) -> None:
    pictures = PICTURES[:8] if "ticks" in form else PICTURES
    data = media.encode(pictures, media.tone(len(pictures) / 25), **form)  # type: ignore[arg-type]
    ours, theirs = open_video(data), open_with_torchcodec(data, DecodeLimits())
    chosen = [len(pictures) - 1, 0, 5, 5]
    assert_same_frames(theirs.frames(chosen), ours.frames(chosen))
    np.testing.assert_array_equal(theirs.times_s, ours.times_s)
    first, second = theirs.sound(0.0, 0.3, 16000), ours.sound(0.0, 0.3, 16000)
    assert first is not None and second is not None and np.array_equal(first, second)


@needs_torchcodec
def test_rotation_and_limits_equal_those_of_our_decoder() -> None:
    data = media.rotated(media.encode(PICTURES[:4]), (0, 1, -1, 0))
    np.testing.assert_array_equal(open_with_torchcodec(data, DecodeLimits()).frames([1]), open_video(data).frames([1]))
    with pytest.raises(SampleError) as caught:
        open_with_torchcodec(media.clip(4), DecodeLimits(max_pixels=100))
    assert caught.value.cause == Cause.TOO_MANY_PIXELS


def test_missing_torchcodec_is_an_error_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    torchcodec_video.torchcodec_decoders.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'trichord\[bench\]' and FFmpeg's libraries"):
        open_with_torchcodec(media.clip(4), DecodeLimits())
    torchcodec_video.torchcodec_decoders.cache_clear()
