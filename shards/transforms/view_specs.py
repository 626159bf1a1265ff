"""Settings of the transforms: crops, colours, RandAugment, the views of a sample, blends of a batch.

The module does not import torch, so that a recipe can be checked where torch is missing.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trichord.shards.transforms.clip_specs import ClipSpec, SvtWindow
from trichord.shards.transforms.flips import FlipRule

Interpolation = Literal["bilinear", "bicubic"]
Sampling = Literal["nearest", "bilinear"]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Crop(_Spec):
    count: ClassVar[int] = 1  # crops per clip
    is_random: ClassVar[bool] = True

    size: int = Field(ge=1)
    interpolation: Interpolation = "bilinear"


class RandomResizedCrop(_Crop):
    """A random share of the area at a random aspect, resized to a square (Inception's, as in torchvision)."""

    kind: Literal["random_resized"] = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)


class MultiScaleCrop(_Crop):
    """A crop at the centre or a corner, its sides the short side times a scale each (TSN; X-CLIP, VideoMamba).

    The scales of height and width differ by at most one step in the list; the crop is resized to a square.
    """

    kind: Literal["multi_scale"] = "multi_scale"
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)


class RandomShortSideCrop(_Crop):
    """Short side resized to a random length, then a random square (TimeSformer and VTN: 256 to 320, 224)."""

    kind: Literal["random_short_side"] = "random_short_side"
    short_side: tuple[int, int] = (256, 320)

    @model_validator(mode="after")
    def _fits(self) -> RandomShortSideCrop:
        _check_fits(self.size, self.short_side[0])
        return self


class CentreCrop(_Crop):
    """Short side resized to `short_side`, then the centre square."""

    is_random: ClassVar[bool] = False

    kind: Literal["centre"] = "centre"
    short_side: int = 256

    @model_validator(mode="after")
    def _fits(self) -> CentreCrop:
        _check_fits(self.size, self.short_side)
        return self


class ThreeCrops(_Crop):
    """Short side resized to `short_side`, then three squares along the long side: start, middle, end."""

    count: ClassVar[int] = 3
    is_random: ClassVar[bool] = False

    kind: Literal["three"] = "three"
    short_side: int = 256

    @model_validator(mode="after")
    def _fits(self) -> ThreeCrops:
        _check_fits(self.size, self.short_side)
        return self


class Squash(_Crop):
    """The whole picture resized to a square, without keeping the aspect (as for some Charades results)."""

    is_random: ClassVar[bool] = False

    kind: Literal["squash"] = "squash"


CropSpec = Annotated[
    RandomResizedCrop | MultiScaleCrop | RandomShortSideCrop | CentreCrop | ThreeCrops | Squash,
    Field(discriminator="kind"),
]


class ColourJitter(_Spec):
    """Jitter with this probability, in random order: factors around 1 (brightness, contrast, saturation), hue shift."""

    brightness: float = Field(default=0.4, ge=0)
    contrast: float = Field(default=0.4, ge=0)
    saturation: float = Field(default=0.2, ge=0)
    hue: float = Field(default=0.0, ge=0, le=0.5)
    probability: float = Field(default=0.8, ge=0, le=1)


class _RandAugment(_Spec):
    fill: tuple[int, int, int] = (0, 0, 0)
    interpolation: Sampling = "nearest"


class TorchvisionRandAugment(_RandAugment):
    """`operations` draws out of 14; `magnitude` is the number of a bin, the last of `bins` being the strongest."""

    convention: Literal["torchvision"] = "torchvision"
    operations: int = Field(default=2, ge=0)
    magnitude: int = Field(default=9, ge=0)
    bins: int = Field(default=31, ge=2)


class TimmRandAugment(_RandAugment):
    """`operations` draws out of 15, each applied with `probability`, at a level out of 10 drawn around `magnitude`."""

    convention: Literal["timm_increasing"] = "timm_increasing"
    operations: int = Field(default=4, ge=0)
    magnitude: float = Field(default=7.0, ge=0, le=10)
    magnitude_deviation: float = Field(default=0.5, ge=0)
    probability: float = Field(default=0.5, ge=0, le=1)
    fill: tuple[int, int, int] = (124, 116, 104)  # ImageNet's mean colour
    interpolation: Sampling = "bilinear"


RandAugment = Annotated[TorchvisionRandAugment | TimmRandAugment, Field(discriminator="convention")]


class ViewSpec(_Spec):
    """Transforms of the pixels of one clip."""

    crop: CropSpec
    flip_probability: float = Field(default=0.0, ge=0, le=1)
    rand_augment: RandAugment | None = None
    jitter: ColourJitter | None = None
    grey_probability: float = Field(default=0.0, ge=0, le=1)


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
    cutmix_alpha: float = Field(default=1.0, ge=0)
    probability: float = Field(default=1.0, ge=0, le=1)  # that a batch is blended at all
    cutmix_probability: float = Field(default=0.5, ge=0, le=1)  # of CutMix if both are enabled


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


def _check_fits(size: int, short_side: int) -> None:
    if short_side < size:
        raise ValueError(f"short_side {short_side} is smaller than the crop size {size}")
