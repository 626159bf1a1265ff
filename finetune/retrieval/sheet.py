"""Draws what was found: frames of each hit, with its score, words and place in time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trichord.core.console import track
from trichord.core.errors import SampleError, UserError
from trichord.finetune.retrieval.found import read_sample
from trichord.finetune.retrieval.index import Hit
from trichord.shards.decoding.video import open_video
from trichord.shards.inspecting.sheet import Row, Strip, draw_sheet
from trichord.shards.inspecting.show import picture_of_sound, thumbnail

_FRAMES = 8


def draw_hits(title: str, hits: Sequence[Hit], out: Path) -> None:
    """Write a PNG; a hit whose video cannot be had says so in its place."""
    rows = []
    for hit in track(hits, "drawing hits"):
        try:
            rows.append(_row(hit))
        except SampleError as error:
            rows.append(Row(hit.key, (hit.shard,), error=str(error)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(title, rows).save(out, "PNG")
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}. Next: another --sheet") from error


def _row(hit: Hit) -> Row:
    video = open_video(read_sample(hit).video())
    middles_T = hit.start_s + (np.arange(_FRAMES) + 0.5) * (hit.end_s - hit.start_s) / _FRAMES
    places_T = np.searchsorted(video.times_s, middles_T + 1e-6, side="right") - 1
    frames_THWC = video.frames(np.clip(places_T, 0, len(video) - 1))
    facts = (f"score {hit.score:.4f}", f"{hit.start_s:.1f} to {hit.end_s:.1f} s of {video.duration_s:.1f}", hit.shard)
    labels = tuple(hit.label.split("\n")) if hit.label else ()
    captions = (hit.caption,) if hit.caption else ()
    return Row(
        hit.key,
        facts,
        captions,
        labels,
        seconds=hit.end_s - hit.start_s,
        strips=(Strip("", tuple(map(thumbnail, frames_THWC)), None),),
        spectrogram=picture_of_sound(video, hit.start_s, hit.end_s),
    )
