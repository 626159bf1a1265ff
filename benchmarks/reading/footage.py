"""The clips of the reading benchmark: textured, moving, grainy, 10 s, with sound; generated once and kept.

Legend: T frames, H height, W width, N samples.
"""

from __future__ import annotations

import itertools
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import webdataset

from trichord.core.console import track
from trichord.core.seeds import generator
from trichord.shards.reading.manifest import index_shards

WIDTH, HEIGHT, FRAMES_PER_SECOND, SECONDS = 340, 256, 30, 10
SOUND_RATE = 44100
GROUPS_OF_PICTURES = (12, 250)
# Grain is change that motion cannot explain; it decides how costly the frames are that a planned decode skips.
GRAIN = {"clean": 0.0, "grainy": 6.0}
CLIPS = 4


def footage_folder(folder: Path, scene: str, group: int) -> Path:
    """Return the folder of the shard with this scene and group length."""
    return folder / f"{scene}-gop{group}"


def make_footage(folder: Path) -> None:
    """Write one shard for each scene and length of the group of pictures, unless it exists."""
    for scene, group in itertools.product(GRAIN, GROUPS_OF_PICTURES):
        target = footage_folder(folder, scene, group)
        if (target / "manifest.json").exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        with webdataset.TarWriter(str(target / "00000.tar"), encoder=False) as writer:
            for number in track(range(CLIPS), f"making {scene} footage with a key frame every {group}", CLIPS):
                caption = f"texture {number} drifts and a disc crosses it"
                media = _encode(number, GRAIN[scene], group)
                writer.write({"__key__": f"{number:06d}", "mp4": media, "txt": caption.encode(), "json": b"{}"})
        index_shards(target).save(target)


def _picture(
    number: int, time_s: float, texture_HW: npt.NDArray[np.float32], grain_HW: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Draw one frame: two textures that drift apart, a disc that crosses them, and grain that differs by frame."""
    rows_HW, columns_HW = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shift = int(40 * time_s * (1 + number % 3))
    picture_HW3 = np.empty((HEIGHT, WIDTH, 3), np.float32)
    picture_HW3[..., 0] = 90 + 60 * np.roll(texture_HW, shift, 1)
    picture_HW3[..., 1] = 100 + 60 * np.roll(texture_HW, (shift // 2, -shift // 3), (0, 1))
    picture_HW3[..., 2] = 110 + 40 * np.sin(columns_HW / (17 + number) + rows_HW / 29 + 3 * time_s)
    centre = WIDTH * (0.5 + 0.4 * np.sin(1.3 * time_s + number)), HEIGHT * (0.5 + 0.3 * np.cos(1.7 * time_s))
    inside_HW = (columns_HW - centre[0]) ** 2 + (rows_HW - centre[1]) ** 2 < 40**2
    picture_HW3[inside_HW] = 0.3 * picture_HW3[inside_HW] + np.array([150.0, 60.0, 30.0], np.float32)
    picture: npt.NDArray[np.uint8] = np.clip(picture_HW3 + grain_HW[..., None], 0, 255).astype(np.uint8)
    return picture


def _texture(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw smooth noise between -1 and 1 with a natural spectrum, which wraps around."""
    noise = np.fft.rfft2(rng.standard_normal((HEIGHT, WIDTH)))
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :]
    smooth = np.fft.irfft2(noise / (0.01 + np.hypot(rows, columns)), (HEIGHT, WIDTH))
    texture_HW: npt.NDArray[np.float32] = (smooth / np.abs(smooth).max()).astype(np.float32)
    return texture_HW


def _sound(number: int) -> npt.NDArray[np.float32]:
    time_N = np.arange(SECONDS * SOUND_RATE) / SOUND_RATE
    glide = np.sin(2 * np.pi * (220 * (1 + number) * time_N + 30 * np.sin(2 * time_N)))
    beats = np.sin(2 * np.pi * 3 * time_N) > 0
    ticks = beats * np.sin(2 * np.pi * 2900 * time_N)
    sound_N: npt.NDArray[np.float32] = (0.2 * glide + 0.1 * ticks).astype(np.float32)
    return sound_N


def _encode(number: int, grain: float, group: int) -> bytes:
    rng = generator("footage", number)
    texture_HW = _texture(rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
            video: Any = file.add_stream("libx264", rate=FRAMES_PER_SECOND)
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            video.options = {"preset": "medium", "crf": "23", "g": str(group)}
            audio: Any = file.add_stream("aac", rate=SOUND_RATE, layout="stereo")
            for place in range(SECONDS * FRAMES_PER_SECOND):
                grain_HW = rng.standard_normal((HEIGHT, WIDTH), np.float32) * np.float32(grain)
                picture = _picture(number, place / FRAMES_PER_SECOND, texture_HW, grain_HW)
                frame: Any = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = place, Fraction(1, FRAMES_PER_SECOND)
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
            samples_2N = np.stack([_sound(number)] * 2)
            sound: Any = av.AudioFrame.from_ndarray(samples_2N, format="fltp", layout="stereo")
            sound.sample_rate, sound.pts, sound.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
            file.mux(audio.encode(sound))
            file.mux(audio.encode(None))
        return path.read_bytes()
