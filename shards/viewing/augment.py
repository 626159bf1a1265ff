"""RandAugment (Cubuk et al. 2020) over clips: every frame of a view gets the same operations by the same amounts.

Two conventions for what "magnitude" means are in use, and each is named: torchvision's (bins, every operation applied)
and timm's increasing one (level 0 to 10 with noise, each operation applied by a coin: "rand-m7-n4-mstd0.5-inc1" of
VideoMamba and PySlowFast). What an operation does for a given amount equals torchvision's.
Legend: C the three colours, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from trichord.shards.viewing import colour
from trichord.shards.viewing.view_specs import RandAugment, Sampling, TorchvisionRandAugment
from trichord.shards.viewing.warp import WARPS, warp

Operation = tuple[str, float]  # what is done, and by how much in the operation's own unit

TORCHVISION_OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "saturation"),
    *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
TIMM_OPERATIONS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "saturation"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
FACTORS = ("brightness", "saturation", "contrast", "sharpness")


def draw_operations(spec: RandAugment, height: int, width: int, rng: np.random.Generator) -> tuple[Operation, ...]:
    """Draw what is done to a view of this size, in order, with the amounts in the operations' own units."""
    drawn = []
    for _ in range(spec.operations):
        if isinstance(spec, TorchvisionRandAugment):
            name = TORCHVISION_OPERATIONS[int(rng.integers(len(TORCHVISION_OPERATIONS)))]
            sign = -1.0 if rng.random() < 0.5 else 1.0
            drawn.append((name, torchvision_amount(name, spec.magnitude, spec.bins, sign, height, width)))
        else:
            name = TIMM_OPERATIONS[int(rng.integers(len(TIMM_OPERATIONS)))]
            applied = rng.random() < spec.probability
            level = min(max(float(rng.normal(spec.magnitude, spec.magnitude_deviation)), 0.0), 10.0)
            sign = -1.0 if rng.random() < 0.5 else 1.0
            if applied:
                drawn.append((name, timm_amount(name, level, sign, height, width)))
    return tuple(drawn)


def torchvision_amount(name: str, magnitude: int, bins: int, sign: float, height: int, width: int) -> float:
    """Turn a bin into an amount; `sign` counts where the operation has two directions."""
    share = magnitude / (bins - 1)
    match name:
        case "shear_x" | "shear_y":
            return sign * 0.3 * share
        case "translate_x":
            return float(int(sign * 150 / 331 * width * share))
        case "translate_y":
            return float(int(sign * 150 / 331 * height * share))
        case "rotate":
            return sign * 30 * share
        case "posterize":
            return float(8 - round(4 * share))
        case "solarize":
            return 255 * (1 - share)
        case _ if name in FACTORS:
            return 1 + sign * 0.9 * share
    return 0.0


def timm_amount(name: str, level: float, sign: float, height: int, width: int) -> float:
    """Turn a level from 0 to 10 into an amount; all operations grow stronger with the level."""
    share = level / 10
    match name:
        case "shear_x" | "shear_y":
            return sign * 0.3 * share
        case "translate_x":
            return sign * 0.45 * width * share
        case "translate_y":
            return sign * 0.45 * height * share
        case "rotate":
            return sign * 30 * share
        case "posterize":
            return float(4 - int(4 * share))
        case "solarize":
            return float(256 - int(256 * share))
        case "solarize_add":
            return float(int(110 * share))
        case _ if name in FACTORS:
            return 1 + sign * 0.9 * share
    return 0.0


_TONES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda frames_CTHW, _: frames_CTHW,
    "brightness": colour.brightness,
    "saturation": colour.saturation,
    "contrast": colour.contrast,
    "hue": colour.hue,
    "sharpness": colour.sharpness,
    "posterize": lambda frames_CTHW, bits: colour.posterize(frames_CTHW, int(bits)),
    "solarize": colour.solarize,
    "solarize_add": lambda frames_CTHW, addition: colour.solarize_add(frames_CTHW, int(addition)),
    "autocontrast": lambda frames_CTHW, _: colour.autocontrast(frames_CTHW),
    "equalize": lambda frames_CTHW, _: colour.equalize(frames_CTHW),
    "invert": lambda frames_CTHW, _: colour.invert(frames_CTHW),
    "grey": lambda frames_CTHW, _: colour.grey(frames_CTHW),
}


def apply_operation(
    frames_CTHW: Tensor,
    operation: Operation,
    fill: tuple[int, int, int] = (0, 0, 0),
    interpolation: Sampling = "nearest",
) -> Tensor:
    """Do one operation to all frames of a view; gives contiguous uint8 frames_CTHW."""
    name, amount = operation
    if name in WARPS:
        return warp(frames_CTHW, name, amount, fill, interpolation)
    return _TONES[name](frames_CTHW, amount)
