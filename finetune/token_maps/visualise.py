"""Pictures of a backbone's attention or tokens over the frames of a video file or of clips from shards.

Maps are blended with the frames, and written as a PNG with frames side by side or as an animated GIF.

Legend: T frames, H and W pixels, t steps of tokens, h x w their places, c and C colours.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from trichord.core.console import show_figures, track
from trichord.core.errors import SampleError, UserError
from trichord.core.files import whole_file
from trichord.finetune.loading import load_run
from trichord.finetune.token_maps.maps import VideoEncoder, attended_places, main_directions, video_encoder_of
from trichord.pretrain.engine.allocator import thread_plan
from trichord.pretrain.engine.device import pick_device
from trichord.shards.reading.batch import Batch
from trichord.shards.record import VIDEO_EXTENSIONS, RawSample
from trichord.shards.sample import batch_of, pick_samples, read_video

Kind = Literal["attention", "pca"]
Pixels = NDArray[np.uint8]
_FRAMES_OF_A_PNG = 8


@dataclass(frozen=True)
class DrawnClip:
    """The files written for a clip, and what its map shows."""

    key: str
    shows: str
    frames: int
    seconds: float
    files: tuple[Path, ...]


def run_visualise(arguments: Namespace) -> int:
    """Draw the clips of parsed arguments and print the files."""
    torch.set_num_threads(thread_plan(1))
    endings = tuple(arguments.endings or ("gif", "png"))
    drawn = visualise(arguments.run_folder, arguments.source, arguments.out, arguments.kind, arguments.count, endings)
    rows = [
        {
            "clip": each.key,
            "shows": each.shows,
            "frames": each.frames,
            "seconds": round(each.seconds, 2),
            "files": ", ".join(map(str, each.files)),
        }
        for each in drawn
    ]
    show_figures(f"{arguments.kind} of {arguments.run_folder}", rows, arguments.json)
    return 0


def visualise(run: Path, source: str, out: Path, kind: Kind, count: int, endings: tuple[str, ...]) -> list[DrawnClip]:
    """Write pictures of a video file or of some clips from shards; `endings` may contain gif and png."""
    encoder = video_encoder_of(load_run(run, pick_device(0)))
    drawn = []
    for raw in track(_samples(source, count), "drawing clips"):
        try:
            batch = batch_of(raw, encoder.spec)
        except SampleError as error:
            raise UserError(f"{raw.key} of {raw.shard} cannot be used: {error}") from error
        drawn.append(_draw(encoder, batch, out, kind, endings))
    return drawn


def frames_of(batch: Batch, view: int = 0) -> Pixels:
    """Return the frames of a batch's first clip as pictures, THWC."""
    frames_THWC: Pixels = np.ascontiguousarray(batch.video[view][0].permute(1, 2, 3, 0).cpu().numpy())
    return frames_THWC


def _samples(source: str, count: int) -> Iterator[RawSample]:
    path = Path(source)
    if path.is_file() or path.suffix.lower().removeprefix(".") in VIDEO_EXTENSIONS:
        return iter([read_video(path)])
    return pick_samples(source, count)


def _draw(encoder: VideoEncoder, batch: Batch, out: Path, kind: Kind, endings: tuple[str, ...]) -> DrawnClip:
    frames_THWC = frames_of(batch)
    shows, over_THWC = _MAPS[kind](encoder, frames_THWC, encoder.pixels(batch))
    (key,), (timeline,) = batch.key, batch.timeline
    stem = out / f"{key.replace('/', '_')}.{shows}"
    files = {ending: stem.with_name(f"{stem.name}.{ending}") for ending in _WRITERS if ending in endings}
    for ending, path in files.items():
        _WRITERS[ending](path, (frames_THWC, over_THWC), timeline.duration_s)
    return DrawnClip(key, shows, len(frames_THWC), timeline.duration_s, tuple(files.values()))


def _attention_map(encoder: VideoEncoder, frames_THWC: Pixels, pixels_BCTHW: Tensor) -> tuple[str, Pixels]:
    places = attended_places(encoder.backbone, pixels_BCTHW)
    return places.kind, heat_over(frames_THWC, places.weight_Bthw[0])


def _component_map(encoder: VideoEncoder, frames_THWC: Pixels, pixels_BCTHW: Tensor) -> tuple[str, Pixels]:
    return "pca", colours_over(frames_THWC, main_directions(encoder.backbone, pixels_BCTHW)[0])


# By kind: the function that returns what the map shows, and the frames with the map over them.
_MAPS: dict[Kind, Callable[[VideoEncoder, Pixels, Tensor], tuple[str, Pixels]]] = {
    "attention": _attention_map,
    "pca": _component_map,
}
# From dark to bright, so that the colours also differ in greyscale.
_SCALE = np.array([(10, 8, 40), (88, 22, 110), (188, 55, 84), (249, 142, 9), (252, 250, 160)], np.float64)
_SHOWS_THROUGH = 0.45  # share of the frame in the blend with a map
_GAP = 4
_PAPER = 255
_LARGEST_SIDE = 192  # up to which small pictures are enlarged


def heat_over(frames_THWC: Pixels, weight_thw: Tensor) -> Pixels:
    """Blend weights with frames: the clip's largest bright, its smallest dark, with interpolation between places."""
    lowest, spread = weight_thw.min(), (weight_thw.max() - weight_thw.min()).clamp_min(1e-12)
    heat_THW = _fitted(((weight_thw - lowest) / spread).cpu()[..., None], frames_THWC.shape, "bilinear")[..., 0]
    stops = np.linspace(0, 1, len(_SCALE))
    colours_THWC = np.stack([np.interp(heat_THW, stops, _SCALE[:, colour]) for colour in range(3)], axis=-1)
    return _blended(frames_THWC, colours_THWC)


def colours_over(frames_THWC: Pixels, colours_thwc: Tensor) -> Pixels:
    """Blend colours of places, from 0 to 1, with frames, each place as a square."""
    return _blended(frames_THWC, 255.0 * _fitted(colours_thwc.cpu(), frames_THWC.shape, "nearest"))


def write_png(path: Path, rows: Sequence[Pixels]) -> None:
    """Write rows of frames, each from left to right, one row below the other."""
    rows = [_large(frames_THWC) for frames_THWC in rows]
    _, height, width, _ = rows[0].shape
    sheet = Image.new("RGB", (_along(len(rows[0]), width), _along(len(rows), height)), (_PAPER,) * 3)
    for row, frames_THWC in enumerate(rows):
        for column, frame_HWC in enumerate(frames_THWC):
            place = (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP))
            sheet.paste(Image.fromarray(frame_HWC), place)
    _save(sheet, path)


def write_gif(path: Path, rows: Sequence[Pixels], seconds: float) -> None:
    """Write an animation as long as the clip, with the rows side by side."""
    joined_THWC = np.concatenate([_large(frames_THWC) for frames_THWC in rows], axis=2)
    first, *others = (Image.fromarray(frame_HWC) for frame_HWC in joined_THWC)
    each_ms = max(20, round(1000 * seconds / len(joined_THWC)))  # viewers replace values below 20 with 100
    _save(first, path, save_all=True, append_images=others, duration=each_ms, loop=0)


def _write_some_as_png(path: Path, rows: Sequence[Pixels], seconds: float) -> None:
    """Write frames that are spread over the clip."""
    some_T = np.unique(np.linspace(0, len(rows[0]) - 1, _FRAMES_OF_A_PNG).round().astype(int))
    write_png(path, [frames_THWC[some_T] for frames_THWC in rows])


_WRITERS = {"gif": write_gif, "png": _write_some_as_png}  # by file extension


def _large(frames_THWC: Pixels) -> Pixels:
    """Enlarge small pictures by an integer factor."""
    times = max(1, _LARGEST_SIDE // max(frames_THWC.shape[1:3]))
    large_THWC: Pixels = frames_THWC.repeat(times, axis=1).repeat(times, axis=2)
    return large_THWC


def _fitted(values_thwc: Tensor, shape: tuple[int, ...], mode: str) -> NDArray[np.float64]:
    """Resize values to frames and pixels, THWc: a frame gets the values of its step, a pixel those of its place."""
    frames, height, width, _ = shape
    of_frame_T = torch.arange(frames) * len(values_thwc) // frames
    edges = {"align_corners": False} if mode == "bilinear" else {}
    values_tchw = values_thwc.double().permute(0, 3, 1, 2)
    fitted_TcHW = functional.interpolate(values_tchw[of_frame_T], (height, width), mode=mode, **edges)
    fitted_THWc: NDArray[np.float64] = fitted_TcHW.permute(0, 2, 3, 1).numpy()
    return fitted_THWc


def _blended(frames_THWC: Pixels, colours_THWC: NDArray[np.float64]) -> Pixels:
    grey_THW1 = frames_THWC.mean(axis=-1, keepdims=True)  # so that all colour comes from the map
    blended_THWC = _SHOWS_THROUGH * grey_THW1 + (1 - _SHOWS_THROUGH) * colours_THWC
    return np.asarray(blended_THWC.round(), np.uint8)


def _along(count: int, size: int) -> int:
    return _GAP + count * (size + _GAP)


def _save(picture: Image.Image, path: Path, **options: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            picture.save(file, format=path.suffix[1:], **options)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. Next: another --out") from error
