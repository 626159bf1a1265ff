"""The frames that a model saw, and on them where it looked and what its tokens hold, as pictures inside an answer."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from trichord.finetune.token_maps.drawing import Pixels, colours_over, heat_over
from trichord.finetune.token_maps.eyes import Eyes
from trichord.finetune.token_maps.maps import attended_places, main_directions
from trichord.finetune.token_maps.visualise import frames_of
from trichord.shards.reading.batch import Batch

_MOST_FRAMES = 8
_QUALITY = 85


def draw_maps(eyes: Eyes, batch: Batch, view: int, clip_s: tuple[float, float], run: str) -> dict[str, Any]:
    """Give a clip's frames with their times, each as it is, with the places that count, and with tokens as colours."""
    frames_THWC = frames_of(batch, view)
    pixels_BCTHW = eyes.normalisation(batch["video"][view].to(next(eyes.backbone.parameters()).device))
    places = attended_places(eyes.backbone, pixels_BCTHW)
    heat_THWC = heat_over(frames_THWC, places.weight_Bthw[0])
    parts_THWC = colours_over(frames_THWC, main_directions(eyes.backbone, pixels_BCTHW)[0])
    start_s, end_s = clip_s
    frames = len(frames_THWC)
    shown = np.unique(np.linspace(0, frames - 1, _MOST_FRAMES).round().astype(int)).tolist()
    return {
        "run": run,
        "kind": places.kind,
        "start_s": start_s,
        "end_s": end_s,
        "frames": [
            {
                "at_s": start_s + (place + 0.5) * (end_s - start_s) / frames,
                "frame": _as_address(frames_THWC[place]),
                "places": _as_address(heat_THWC[place]),
                "parts": _as_address(parts_THWC[place]),
            }
            for place in shown
        ],
    }


def _as_address(frame_HWC: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(frame_HWC).save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
