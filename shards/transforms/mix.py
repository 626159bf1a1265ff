"""Blends of the samples of a batch (mixup, Zhang et al. 2018; CutMix, Yun et al. 2019) and soft targets.

A blend must not depend on the number of ranks that share the batch. A step's batch takes the same number of samples
from every stream lane (see `reading.order`), in lane order, and no rank or worker splits a lane; so sample j of a lane
is blended with sample j + 1 of the same lane, cyclically. The amount (one per batch, as in timm and X-CLIP) and the box
come from a generator seeded by the seed and the step.
Legend: B samples, K classes, C colours, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trichord.core.errors import UserError
from trichord.core.seeds import generator
from trichord.shards.transforms.view_specs import MixSpec


class Mixing(NamedTuple):
    """Inputs of blends other than their settings."""

    seed: int
    samples_per_lane: int


@dataclass(frozen=True)
class Blend:
    """The random choices of one step: `kept` is the share of a sample's own pixels.

    For CutMix `box` is (top, bottom, left, right) in shares of height and width, the same over time; None is mixup.
    """

    kept: float
    box: tuple[float, float, float, float] | None = None


def draw_blend(spec: MixSpec, seed: int, step: int) -> Blend:
    """Draw the blend of one step, the same on every rank; kept = 1 leaves the batch unchanged."""
    rng = generator(seed, "mix", step)
    blended, cut, place = rng.random() < spec.probability, rng.random() < spec.cutmix_probability, rng.random(2)
    if not blended or (spec.mixup_alpha == 0 and spec.cutmix_alpha == 0):
        return Blend(1.0)
    if spec.cutmix_alpha > 0 and (cut or spec.mixup_alpha == 0):
        kept = float(rng.beta(spec.cutmix_alpha, spec.cutmix_alpha))
        side = float(np.sqrt(1 - kept))
        (top, bottom), (left, right) = (_clip_to_picture(float(centre), side) for centre in place)
        return Blend(1 - (bottom - top) * (right - left), (top, bottom, left, right))
    return Blend(float(rng.beta(spec.mixup_alpha, spec.mixup_alpha)))


def blend_batch(
    videos_BCTHW: Sequence[Tensor], targets_BK: Tensor, blend: Blend, samples_per_lane: int
) -> tuple[list[Tensor], Tensor]:
    """Blend all views and the soft targets by the same amount; uint8 views stay uint8, rounded.

    CutMix cuts whole pixels: targets use the exact share of pixels in the first view.
    """
    if blend.kept == 1.0:
        return list(videos_BCTHW), targets_BK
    if samples_per_lane < 2:
        raise UserError(
            "mixup and CutMix blend samples of the same lane, but each lane has only 1 sample per step; "
            "raise batch_size to at least 2 x lanes, lower lanes, or set mixup_alpha=0 cutmix_alpha=0"
        )
    if len(targets_BK) % samples_per_lane:
        raise UserError(
            f"mixup and CutMix blend samples of the same lane, and each lane has {samples_per_lane} samples per step, "
            f"but this part of the batch has {len(targets_BK)}, so a lane is split. "
            "data.lanes must be a multiple of ranks x engine.accumulation"
        )
    partners = partners_in_lanes(len(targets_BK), samples_per_lane).to(targets_BK.device)
    if blend.box is None:
        kept = blend.kept
        videos = [_mixed(video_BCTHW, video_BCTHW[partners], kept) for video_BCTHW in videos_BCTHW]
    else:
        boxes = [_pixels(blend.box, video_BCTHW.shape[-2], video_BCTHW.shape[-1]) for video_BCTHW in videos_BCTHW]
        videos = [_pasted(video, video[partners], box) for video, box in zip(videos_BCTHW, boxes, strict=True)]
        (rows, columns), first = boxes[0], videos_BCTHW[0]
        cut_pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
        kept = 1 - cut_pixels / (first.shape[-2] * first.shape[-1])
    return videos, targets_BK * kept + targets_BK[partners] * (1 - kept)


def partners_in_lanes(samples: int, samples_per_lane: int) -> Tensor:
    """Return the partner of each sample: the next of its own lane, and for the last one the first."""
    if samples % samples_per_lane:
        raise ValueError(f"a batch of {samples} does not consist of whole lanes of {samples_per_lane} samples")
    position = torch.arange(samples)
    return position - position % samples_per_lane + (position + 1) % samples_per_lane


def soft_targets(
    labels: Sequence[Sequence[int]], classes: int, smoothing: float = 0.0, multi_label: bool = False
) -> Tensor:
    """Return labels as targets_BK.

    With one label per sample: smoothing / K everywhere plus 1 - smoothing on the label, so that a row sums to 1. With
    `multi_label`, each class is an independent binary target: 1 - smoothing / 2 or smoothing / 2.
    """
    targets_BK = torch.zeros(len(labels), classes)
    for row, own in enumerate(labels):
        if any(not 0 <= label < classes for label in own):
            raise ValueError(f"sample {row} has labels {list(own)}, expected numbers from 0 to {classes - 1}")
        if not multi_label and len(own) != 1:
            raise ValueError(f"sample {row} has {len(own)} labels, expected one; for several set multi_label")
        targets_BK[row, list(own)] = 1.0
    return targets_BK * (1 - smoothing) + smoothing * (0.5 if multi_label else 1 / classes)


def _clip_to_picture(centre: float, side: float) -> tuple[float, float]:
    return max(centre - side / 2, 0.0), min(centre + side / 2, 1.0)


def _pixels(box: tuple[float, float, float, float], height: int, width: int) -> tuple[slice, slice]:
    top, bottom, left, right = box
    return slice(round(top * height), round(bottom * height)), slice(round(left * width), round(right * width))


def _mixed(own: Tensor, other: Tensor, kept: float) -> Tensor:
    if own.dtype == torch.uint8:
        return own.mul(kept).add_(other, alpha=1 - kept).round_().to(torch.uint8)
    return torch.lerp(other, own, kept)


def _pasted(own: Tensor, other: Tensor, box: tuple[slice, slice]) -> Tensor:
    pasted = own.clone()
    pasted[..., box[0], box[1]] = other[..., box[0], box[1]]
    return pasted
