"""Draws where a run's backbone looks, or what its tokens hold, for a video file or for clips of shards.

Legend: C colours, T frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trichord.core.console import track
from trichord.core.errors import SampleError, UserError
from trichord.finetune.opening import open_run
from trichord.finetune.token_maps.drawing import Pixels, colours_over, heat_over, write_gif, write_png
from trichord.finetune.token_maps.eyes import Eyes, eyes_of
from trichord.finetune.token_maps.maps import attended_places, main_directions
from trichord.pretrain.engine.device import pick_device
from trichord.shards.reading.batch import Batch
from trichord.shards.reading.one_file import batch_of, read_video
from trichord.shards.reading.picking import pick_samples
from trichord.shards.record import VIDEO_EXTENSIONS, RawSample

Kind = Literal["attention", "pca"]
_FRAMES_OF_A_PNG = 8


@dataclass(frozen=True)
class Drawn:
    """What was written of a clip, and what its map is of."""

    key: str
    shows: str
    frames: int
    seconds: float
    files: tuple[Path, ...]


def visualise(run: Path, source: str, out: Path, kind: Kind, count: int, endings: tuple[str, ...]) -> list[Drawn]:
    """Write pictures of a video file, or of some clips of shards; endings are gif and png."""
    eyes = eyes_of(open_run(run, pick_device(0)))
    drawn = []
    for raw in track(_samples(source, count), "drawing clips"):
        try:
            batch = batch_of(raw, eyes.spec)
        except SampleError as error:
            raise UserError(f"{raw.key} of {raw.shard} cannot be used: {error}") from error
        drawn.append(_draw(eyes, batch, out, kind, endings))
    return drawn


def frames_of(batch: Batch, view: int = 0) -> Pixels:
    """Give the frames of a batch's first clip as pictures, THWC."""
    frames_THWC: Pixels = np.ascontiguousarray(batch["video"][view][0].permute(1, 2, 3, 0).cpu().numpy())
    return frames_THWC


def _samples(source: str, count: int) -> Iterator[RawSample]:
    path = Path(source)
    if path.is_file() or path.suffix.lower().removeprefix(".") in VIDEO_EXTENSIONS:
        return iter([read_video(path)])
    return pick_samples(source, count)


def _draw(eyes: Eyes, batch: Batch, out: Path, kind: Kind, endings: tuple[str, ...]) -> Drawn:
    frames_THWC, pixels_BCTHW = frames_of(batch), eyes.pixels(batch)
    if kind == "pca":
        shows, over_THWC = "pca", colours_over(frames_THWC, main_directions(eyes.backbone, pixels_BCTHW)[0])
    else:
        places = attended_places(eyes.backbone, pixels_BCTHW)
        shows, over_THWC = places.kind, heat_over(frames_THWC, places.weight_Bthw[0])
    (key,), (timeline,) = batch["key"], batch["timeline"]
    stem = out / f"{key.replace('/', '_')}.{shows}"
    files = []
    if "gif" in endings:
        files.append(stem.with_name(f"{stem.name}.gif"))
        write_gif(files[-1], (frames_THWC, over_THWC), timeline.duration_s)
    if "png" in endings:
        files.append(stem.with_name(f"{stem.name}.png"))
        some_T = np.unique(np.linspace(0, len(frames_THWC) - 1, _FRAMES_OF_A_PNG).round().astype(int))
        write_png(files[-1], (frames_THWC[some_T], over_THWC[some_T]))
    return Drawn(key, shows, len(frames_THWC), timeline.duration_s, tuple(files))
