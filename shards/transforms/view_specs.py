"""Settings of the views of a sample: colours, RandAugment, the transforms of each clip, blends of a batch.

RandAugment (Cubuk et al. 2020) has two conventions of "magnitude": torchvision's (bins, every operation applied) and
timm's increasing one (level 0 to 10 with noise, each operation applied with a probability:
"rand-m7-n4-mstd0.5-inc1" of VideoMamba and PySlowFast).

The module does not import torch, so that a recipe can be checked where torch is missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trichord.shards.transforms.clip_specs import ClipSpec, DenseWindow, Segments, SlidingWindows, SvtWindow
from trichord.shards.transforms.crops import CropSpec, RandomResizedCrop, ThreeCrops
from trichord.shards.transforms.flips import FlipRule

Sampling = Literal["nearest", "bilinear"]
Operation = tuple[str, float]  # name, and amount in the operation's own unit

TORCHVISION_OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "saturation"),
    *("contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
TIMM_OPERATIONS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "saturation"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
FACTORS = ("brightness", "saturation", "contrast", "sharpness")


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColourJitter(_Spec):
    """Random factors of brightness, contrast and saturation around 1, and a shift of the hue, in random order."""

    brightness: float = Field(default=0.4, ge=0)
    """Largest deviation of the brightness factor from 1; 0 leaves brightness unchanged."""
    contrast: float = Field(default=0.4, ge=0)
    """Largest deviation of the contrast factor from 1; 0 leaves contrast unchanged."""
    saturation: float = Field(default=0.2, ge=0)
    """Largest deviation of the saturation factor from 1; 0 leaves saturation unchanged."""
    hue: float = Field(default=0.0, ge=0, le=0.5)
    """Largest shift of the hue in either direction, as a share of the colour circle; 0 leaves the hue unchanged."""
    probability: float = Field(default=0.8, ge=0, le=1)
    """Probability that a view is jittered."""

    def draw(self, rng: np.random.Generator) -> tuple[Operation, ...]:
        """Draw the operations in order of application; with probability 1 - `probability`, none."""
        if rng.random() >= self.probability:
            return ()
        amounts = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        drawn = [(name, float(rng.uniform(max(0.0, 1 - by), 1 + by))) for name, by in amounts.items() if by > 0]
        if self.hue > 0:
            drawn.append(("hue", float(rng.uniform(-self.hue, self.hue))))
        return tuple(drawn[index] for index in rng.permutation(len(drawn)))


class _RandAugment(_Spec, ABC):
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour, in levels from 0 to 255, of the pixels that rotation, shear and translation uncover."""
    interpolation: Sampling = "nearest"
    """Interpolation of rotation, shear and translation."""

    @abstractmethod
    def draw(self, height: int, width: int, rng: np.random.Generator) -> tuple[Operation, ...]:
        """Draw the operations for a view of this size, in order, with amounts in the operations' own units."""


class TorchvisionRandAugment(_RandAugment):
    """torchvision's: `operations` draws out of 14, with a strength of `magnitude` out of `bins`."""

    convention: Literal["torchvision"] = "torchvision"
    operations: int = Field(default=2, ge=0)
    """Number of operations applied to a view."""
    magnitude: int = Field(default=9, ge=0)
    """Strength of the operations: the number of a bin, below `bins`."""
    bins: int = Field(default=31, ge=2)
    """Number of bins of strength; the last is the strongest."""

    def draw(self, height: int, width: int, rng: np.random.Generator) -> tuple[Operation, ...]:
        drawn = []
        for _ in range(self.operations):
            name = TORCHVISION_OPERATIONS[int(rng.integers(len(TORCHVISION_OPERATIONS)))]
            sign = -1.0 if rng.random() < 0.5 else 1.0
            drawn.append((name, torchvision_amount(name, self.magnitude, self.bins, sign, height, width)))
        return tuple(drawn)


class TimmRandAugment(_RandAugment):
    """timm's: `operations` draws out of 15, each applied with `probability`, its strength drawn around `magnitude`."""

    convention: Literal["timm_increasing"] = "timm_increasing"
    operations: int = Field(default=4, ge=0)
    """Number of operations drawn for a view."""
    magnitude: float = Field(default=7.0, ge=0, le=10)
    """Mean strength of an operation; 10 is the strongest."""
    magnitude_deviation: float = Field(default=0.5, ge=0)
    """Standard deviation of the strength."""
    probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that a drawn operation is applied."""
    fill: tuple[int, int, int] = (124, 116, 104)  # ImageNet's mean colour
    interpolation: Sampling = "bilinear"

    def draw(self, height: int, width: int, rng: np.random.Generator) -> tuple[Operation, ...]:
        drawn = []
        for _ in range(self.operations):
            name = TIMM_OPERATIONS[int(rng.integers(len(TIMM_OPERATIONS)))]
            applied = rng.random() < self.probability
            level = min(max(float(rng.normal(self.magnitude, self.magnitude_deviation)), 0.0), 10.0)
            sign = -1.0 if rng.random() < 0.5 else 1.0
            if applied:
                drawn.append((name, timm_amount(name, level, sign, height, width)))
        return tuple(drawn)


RandAugment = Annotated[TorchvisionRandAugment | TimmRandAugment, Field(discriminator="convention")]


class ViewSpec(_Spec):
    """Transforms of the pixels of one clip."""

    crop: CropSpec
    """How a square is cut from the frames, selected by `kind`."""
    flip_probability: float = Field(default=0.0, ge=0, le=1)
    """Probability that a clip is mirrored left to right."""
    rand_augment: RandAugment | None = None
    """RandAugment, in the convention of torchvision or timm; null for none."""
    jitter: ColourJitter | None = None
    """Random changes of brightness, contrast, saturation and hue; null for none."""
    grey_probability: float = Field(default=0.0, ge=0, le=1)
    """Probability that a clip is turned grey."""


class ViewsSpec(_Spec):
    """All views of a sample: the choice of clips, and one view spec for all clips or one for each."""

    clips: ClipSpec
    views: tuple[ViewSpec, ...] = Field(min_length=1)
    flips: FlipRule = FlipRule()

    @model_validator(mode="after")
    def _one_view_per_clip(self) -> ViewsSpec:
        count = self.clips.clip_count
        if len(self.views) not in (1, count):
            several = "" if count == 1 else f", or one for each of {count or 'a varying number of'} clips"
            raise ValueError(f"expected 1 view{several}; found {len(self.views)}")
        if self.flips.swap_labels and len({view.flip_probability for view in self.views}) > 1:
            raise ValueError("swap_labels need the same flip_probability in all views")
        return self


class MixSpec(_Spec):
    """Mixup and CutMix with their Beta parameters; 0 disables one. Defaults are X-CLIP's and VideoMamba's."""

    mixup_alpha: float = Field(default=0.8, ge=0)
    """Parameter of the Beta distribution of mixup's blending weight; 0 disables mixup."""
    cutmix_alpha: float = Field(default=1.0, ge=0)
    """Parameter of the Beta distribution of the area that CutMix keeps; 0 disables CutMix."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """Probability that a batch is blended at all."""
    cutmix_probability: float = Field(default=0.5, ge=0, le=1)
    """Probability that a blended batch is blended by CutMix, if both methods are enabled."""


def svt_views(
    clips: SvtWindow | None = None, global_size: int = 224, local_size: int = 96, flips: FlipRule | None = None
) -> ViewsSpec:
    """Return SVT's views: two globals, then the locals, each with its own length, frame rate, crop and colours."""
    clips = clips or SvtWindow()
    jitter = ColourJitter(brightness=0.4, contrast=0.4, saturation=0.2, probability=0.8)

    def view(size: int, scale: tuple[float, float]) -> ViewSpec:
        crop = RandomResizedCrop(size=size, scale=scale, interpolation="bicubic")
        return ViewSpec(crop=crop, flip_probability=0.5, jitter=jitter, grey_probability=0.2)

    views = (view(global_size, (0.4, 1.0)),) * 2 + (view(local_size, (0.05, 0.4)),) * len(clips.local_frames)
    return ViewsSpec(clips=clips, views=views, flips=flips or FlipRule())


# Views of common recipes by name, for a look at a data set; "none" is its frames without transforms.
COMMON_VIEWS: dict[str, ViewsSpec | None] = {
    "none": None,
    "segments": ViewsSpec(
        clips=Segments(frames=8), views=(ViewSpec(crop=RandomResizedCrop(size=112), flip_probability=0.5),)
    ),
    "window": ViewsSpec(
        clips=DenseWindow(frames=8, clip_seconds=2.0),
        views=(ViewSpec(crop=RandomResizedCrop(size=112), flip_probability=0.5),),
    ),
    "test": ViewsSpec(
        clips=SlidingWindows(frames=8, clip_seconds=2.0), views=(ViewSpec(crop=ThreeCrops(size=112, short_side=112)),)
    ),
    "svt": svt_views(),
}


def torchvision_amount(name: str, magnitude: int, bins: int, sign: float, height: int, width: int) -> float:
    """Convert a bin to an amount; `sign` is used by operations with two directions."""
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
    """Convert a level from 0 to 10 to an amount; all operations become stronger with the level."""
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
