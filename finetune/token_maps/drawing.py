"""Lays what is said of places over frames, and writes a clip's pictures as a PNG side by side or as a GIF that moves.

Legend: T frames, H and W pixels, t steps of tokens, h x w their places, c and C colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from trichord.core.errors import UserError

Pixels = NDArray[np.uint8]
# Dark to bright, and different from one another in grey, too.
_SCALE = np.array([(10, 8, 40), (88, 22, 110), (188, 55, 84), (249, 142, 9), (252, 250, 160)], np.float64)
_SHOWS_THROUGH = 0.45  # of a frame below a map
_GAP = 4
_PAPER = 255
_LARGEST_SIDE = 192  # that small pictures are enlarged to


def heat_over(frames_THWC: Pixels, weight_thw: Tensor) -> Pixels:
    """Lay weights over frames, the clip's largest bright and its smallest dark, smooth between places."""
    lowest, spread = weight_thw.min(), (weight_thw.max() - weight_thw.min()).clamp_min(1e-12)
    heat_THW = _fitted(((weight_thw - lowest) / spread).cpu()[..., None], frames_THWC.shape, "bilinear")[..., 0]
    stops = np.linspace(0, 1, len(_SCALE))
    colours_THWC = np.stack([np.interp(heat_THW, stops, _SCALE[:, colour]) for colour in range(3)], axis=-1)
    return _blended(frames_THWC, colours_THWC)


def colours_over(frames_THWC: Pixels, colours_thwc: Tensor) -> Pixels:
    """Lay colours of places, from 0 to 1, over frames, each place a square."""
    return _blended(frames_THWC, 255.0 * _fitted(colours_thwc.cpu(), frames_THWC.shape, "nearest"))


def write_png(path: Path, rows: Sequence[Pixels]) -> None:
    """Write frames from left to right, one row of pictures below the other."""
    rows = [_large(frames_THWC) for frames_THWC in rows]
    _, height, width, _ = rows[0].shape
    sheet = Image.new("RGB", (_along(len(rows[0]), width), _along(len(rows), height)), (_PAPER,) * 3)
    for row, frames_THWC in enumerate(rows):
        for column, frame_HWC in enumerate(frames_THWC):
            place = (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP))
            sheet.paste(Image.fromarray(frame_HWC), place)
    _save(sheet, path)


def write_gif(path: Path, rows: Sequence[Pixels], seconds: float) -> None:
    """Write pictures that move as long as the clip lasts, the rows side by side."""
    joined_THWC = np.concatenate([_large(frames_THWC) for frames_THWC in rows], axis=2)
    first, *others = (Image.fromarray(frame_HWC) for frame_HWC in joined_THWC)
    each_ms = max(20, round(1000 * seconds / len(joined_THWC)))  # below 20, viewers take 100
    _save(first, path, save_all=True, append_images=others, duration=each_ms, loop=0)


def _large(frames_THWC: Pixels) -> Pixels:
    """Let small pictures be seen."""
    times = max(1, _LARGEST_SIDE // max(frames_THWC.shape[1:3]))
    large_THWC: Pixels = frames_THWC.repeat(times, axis=1).repeat(times, axis=2)
    return large_THWC


def _fitted(values_thwc: Tensor, shape: tuple[int, ...], mode: str) -> NDArray[np.float64]:
    """Give each frame its step's values, and each pixel its place's, THWc."""
    frames, height, width, _ = shape
    of_frame_T = torch.arange(frames) * len(values_thwc) // frames
    edges = {"align_corners": False} if mode == "bilinear" else {}
    values_tchw = values_thwc.double().permute(0, 3, 1, 2)
    fitted_TcHW = functional.interpolate(values_tchw[of_frame_T], (height, width), mode=mode, **edges)
    fitted_THWc: NDArray[np.float64] = fitted_TcHW.permute(0, 2, 3, 1).numpy()
    return fitted_THWc


def _blended(frames_THWC: Pixels, colours_THWC: NDArray[np.float64]) -> Pixels:
    grey_THW1 = frames_THWC.mean(axis=-1, keepdims=True)  # colours are the map's alone
    blended_THWC = _SHOWS_THROUGH * grey_THW1 + (1 - _SHOWS_THROUGH) * colours_THWC
    return np.asarray(blended_THWC.round(), np.uint8)


def _along(count: int, size: int) -> int:
    return _GAP + count * (size + _GAP)


def _save(picture: Image.Image, path: Path, **options: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. Next: another --out") from error
